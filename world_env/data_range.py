"""The range of observations and rewards that a data set covers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from world_env.errors import TwinFormatError
from world_env.types import JSON


@dataclass(frozen=True)
class DataRange:
    """What the data showed, in the environment's own units; predictions stay near it.

    observation: key -> (low, high), each a float list of the key's flat size; floating Box keys only.
    reward: (low, high) of one step's reward, in task units.
    action: (low, high) lists of flat size A: the scale of unbounded Box actions; None otherwise.
    ends: (low, high) lists of flat size D of a Box observation: beyond these no episode ever went on, see
        world_env.simulation.termination; None for those of which the data shows nothing like it.
    """

    observation: dict[str, tuple[list[float], list[float]]]
    reward: tuple[float, float]
    action: tuple[list[float], list[float]] | None = None
    ends: tuple[list[float | None], list[float | None]] | None = None

    def to_json(self) -> JSON:
        """A strict JSON tree."""
        tree = {"observation": self.observation, "reward": self.reward, "action": self.action}
        return tree | ({} if self.ends is None else {"ends": self.ends})

    @classmethod
    def from_json(cls, tree: Any) -> DataRange:
        """The inverse of `to_json`. Raises TwinFormatError, also for bounds that are not finite or not in order."""
        try:
            pairs = {key: (list(map(float, low)), list(map(float, high)))
                     for key, (low, high) in tree["observation"].items()}  # fmt: skip
            low, high = tree["reward"]
            action = tree["action"]
            pair = (
                None
                if action is None
                else (list(map(float, action[0])), list(map(float, action[1])))
            )
            ranges = cls(pairs, (float(low), float(high)), pair, _ends(tree.get("ends")))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TwinFormatError(
                f"this describes no data range: {str(tree)[:200]} ({error})"
            ) from error
        ranges._check_order()
        return ranges

    def _check_order(self) -> None:
        """Raises TwinFormatError unless every bound is a finite number and every low <= its high."""
        rows = [*self.observation.items(), ("reward", ([self.reward[0]], [self.reward[1]]))]
        if self.action is not None:
            rows.append(("action", self.action))
        for name, (low, high) in rows:
            # Not zipped strictly: where the two differ in length, the spec names it.
            wrong = [
                pair
                for pair in zip(low, high, strict=False)
                if not (math.isfinite(pair[0]) and math.isfinite(pair[1]) and pair[0] <= pair[1])
            ]
            if wrong:
                raise TwinFormatError(
                    f"the data range of {name!r} runs from {wrong[0][0]} to {wrong[0][1]}, expected two finite "
                    "numbers, the lower one first"
                )


def _ends(tree: Any) -> tuple[list[float | None], list[float | None]] | None:
    """Raises ValueError or TypeError unless it is None or two lists of finite numbers and Nones."""
    if tree is None:
        return None
    low, high = [[None if v is None else float(v) for v in side] for side in tree]
    if not all(v is None or math.isfinite(v) for v in (*low, *high)):
        raise ValueError("a bound of ends is no finite number")
    return low, high
