"""Range of the observations, rewards and actions of a data set, and the margin around it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypeVar

from world_env.errors import TwinFormatError
from world_env.types import JSON

_Bounds = TypeVar("_Bounds")

MARGIN = 0.1
"""Predicted observations may leave the range of the data by this share of its width, on each side."""

MARGINS_PER_WIDENED_RANGE = 1.0 / MARGIN + 2.0
"""Width of a widened range in units of its margin."""


def widened(low: _Bounds, high: _Bounds) -> tuple[_Bounds, _Bounds]:
    """Add the margin to the range of the data on each side. Takes and returns arrays or tensors of any shape."""
    lower: Any = low
    upper: Any = high
    margin = MARGIN * (upper - lower)
    return lower - margin, upper + margin


@dataclass(frozen=True)
class DataRange:
    """Smallest and largest values in the data, in the environment's units. Predictions are clipped near them.

    observation: key -> (low, high), each a list of D floats (the flat size of the key); floating-point Box keys only.
    reward: (low, high) of the reward of one step, in task units.
    action: (low, high), each a list of A floats: the scale of an unbounded Box action; None otherwise.
    ends: (low, high), each a list of D floats or Nones: hard termination bounds of a Box observation, see
        `world_env.simulation.termination`; None where a dimension, or the whole observation, has no such bound.
    offset: key -> D numbers that are subtracted from a float64 or integer Box key before it becomes float32, and added
        after it; 0 where float32 is precise enough. Keys without such a column are left out.
    """

    observation: dict[str, tuple[list[float], list[float]]]
    reward: tuple[float, float]
    action: tuple[list[float], list[float]] | None = None
    ends: tuple[list[float | None], list[float | None]] | None = None
    offset: dict[str, list[float]] = field(default_factory=dict)

    def to_json(self) -> JSON:
        """Convert to strict JSON."""
        tree = {"observation": self.observation, "reward": self.reward, "action": self.action}
        ends = {} if self.ends is None else {"ends": self.ends}
        return tree | ends | ({"offset": self.offset} if self.offset else {})

    @classmethod
    def from_json(cls, tree: Any) -> DataRange:
        """Inverse of `to_json`. Raises TwinFormatError, also if a bound is not finite or low > high."""
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
            ends, offset = _ends(tree.get("ends")), _offset(tree.get("offset", {}))
            ranges = cls(pairs, (float(low), float(high)), pair, ends, offset)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise TwinFormatError(
                f"invalid data range: {str(tree)[:200]} ({error}). Expected the fields 'observation', 'reward' "
                "and 'action'; restore the file if it was edited."
            ) from error
        ranges._check_order()
        return ranges

    def _check_order(self) -> None:
        """Raises TwinFormatError unless every bound is finite and every low <= its high."""
        pairs = [*self.observation.items(), ("reward", ([self.reward[0]], [self.reward[1]]))]
        if self.action is not None:
            pairs.append(("action", self.action))
        for name, (low, high) in pairs:
            # Not zipped strictly: a difference in length is reported by the check against the spec.
            wrong = [
                pair
                for pair in zip(low, high, strict=False)
                if not (math.isfinite(pair[0]) and math.isfinite(pair[1]) and pair[0] <= pair[1])
            ]
            if wrong:
                raise TwinFormatError(
                    f"data range of {name!r} is [{wrong[0][0]}, {wrong[0][1]}], expected two finite numbers with "
                    "low <= high"
                )


def _ends(tree: Any) -> tuple[list[float | None], list[float | None]] | None:
    """Parse hard termination bounds. Raises ValueError or TypeError unless two lists of finite numbers or Nones."""
    if tree is None:
        return None
    low, high = [[None if v is None else float(v) for v in side] for side in tree]
    if not all(v is None or math.isfinite(v) for v in (*low, *high)):
        raise ValueError("'ends' holds a value that is not finite")
    return low, high


def _offset(tree: Any) -> dict[str, list[float]]:
    """Parse offsets. Integers stay integers: beyond 2^53 a float would round them."""
    found = {
        key: [each if type(each) is int else float(each) for each in columns]
        for key, columns in tree.items()
    }
    if not all(math.isfinite(float(each)) for columns in found.values() for each in columns):
        raise ValueError("'offset' holds a value that is not finite")
    return found
