"""What a world is from outside: its spaces, its time limit, its units, and where it came from."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from world_env.errors import SpaceMismatchError, TwinFormatError, UnsupportedSpaceError

JSON = dict[str, Any]

DEFAULT_TWIN = "cartpole"
"""The bundled twin that `WorldModel-v0` is. Here, because registering ids must not load torch."""


@dataclass(frozen=True)
class WorldSpec:
    """The interface that a twin shares with the real environment.

    observation_space, action_space: the real environment's own spaces, dtypes included.
    horizon: the task's time limit in steps, counted from the real start; None: no limit.
    seconds_per_step: simulated seconds that one step advances; None: unknown.
    real: JSON text of the real `gymnasium` EnvSpec; None: the data came without an environment.
    action_chunk: how many real actions one action of this world holds (1: a plain step).
    """

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    horizon: int | None = None
    seconds_per_step: float | None = None
    real: str | None = None
    action_chunk: int = 1

    def __post_init__(self) -> None:
        if self.horizon is not None and self.horizon < 1:
            raise ValueError(f"horizon is {self.horizon}, but an episode needs at least 1 step")
        if self.action_chunk < 1:
            raise ValueError(f"action_chunk is {self.action_chunk}, expected at least 1")

    @property
    def real_id(self) -> str | None:
        """The id of the real environment, or None."""
        return None if self.real is None else json.loads(self.real).get("id")

    def to_json(self) -> JSON:
        """A strict JSON tree (no NaN, no Infinity) that `from_json` turns back into an equal spec."""
        return {
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "horizon": self.horizon,
            "seconds_per_step": self.seconds_per_step,
            "real": self.real,
            "action_chunk": self.action_chunk,
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> WorldSpec:
        """The inverse of `to_json`. Raises TwinFormatError on missing, unknown or ill-typed fields."""
        names = set(cls.__dataclass_fields__)
        if set(tree) != names:
            raise TwinFormatError(
                f"a spec has the fields {sorted(names)}, got {sorted(tree)}: was the file edited?"
            )
        for name in ("horizon", "action_chunk"):
            if not (tree[name] is None and name == "horizon") and type(tree[name]) is not int:
                raise TwinFormatError(
                    f"spec field {name!r} is {tree[name]!r}, expected a whole number"
                )
        seconds, real = tree["seconds_per_step"], tree["real"]
        if seconds is not None and (type(seconds) not in (int, float) or seconds <= 0):
            raise TwinFormatError(
                f"spec field 'seconds_per_step' is {seconds!r}, expected a number"
            )
        if real is not None and not _names_an_id(real):
            raise TwinFormatError(f"spec field 'real' is {real!r:.80}, expected JSON with an 'id'")
        values = dict(tree)
        for name in ("observation_space", "action_space"):
            values[name] = space_from_json(tree[name])
        try:
            return cls(**values)
        except ValueError as error:
            raise TwinFormatError(f"the spec is not valid: {error}") from error


def _names_an_id(text: Any) -> bool:
    try:
        return isinstance(json.loads(text)["id"], str)
    except (TypeError, ValueError, KeyError):
        return False


class SpecOfStrings:
    """For environments: a `spec` that names its twin by a string, so that `spec.to_json()` can be made from again."""

    _spec: EnvSpec | None = None

    @property
    def spec(self) -> EnvSpec | None:
        """What `gym.make` made this environment from; None: it was made otherwise."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        twin = None if spec is None else spec.kwargs.get("twin")
        if spec is not None and isinstance(twin, os.PathLike):
            # With a separator, because a bare word names a bundled twin.
            text = os.path.join(os.curdir, os.path.expanduser(twin))
            spec.kwargs = {**spec.kwargs, "twin": text}
        self._spec = spec


def space_to_json(space: spaces.Space[Any]) -> JSON:
    """A space as a JSON tree. Raises UnsupportedSpaceError for a space that twins do not cover."""
    if isinstance(space, spaces.Box):
        return {
            "type": "Box",
            "shape": list(space.shape),
            "dtype": str(np.dtype(space.dtype)),
            "low": _bound_to_json(space.low),
            "high": _bound_to_json(space.high),
        }
    if isinstance(space, spaces.Discrete):
        return {
            "type": "Discrete",
            "n": int(space.n),
            "start": int(space.start),
            "dtype": str(np.dtype(space.dtype)),
        }
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return {
            "type": "MultiDiscrete",
            "nvec": space.nvec.tolist(),
            "start": space.start.tolist(),
            "dtype": str(np.dtype(space.dtype)),
        }
    if isinstance(space, spaces.Dict):
        return {
            "type": "Dict",
            "spaces": {key: space_to_json(value) for key, value in space.spaces.items()},
        }
    raise UnsupportedSpaceError(
        f"{type(space).__name__} space {space} is not supported: expected Box, Discrete, a flat MultiDiscrete, "
        "or a Dict of these. Wrap the environment, for example with gymnasium's FlattenObservation."
    )


def space_from_json(tree: Any) -> spaces.Space[Any]:
    """The inverse of `space_to_json`. Raises TwinFormatError where the tree is no space."""
    try:
        kind = tree["type"]
        if kind == "Dict":
            # Of a plain dict the space would sort the keys, and what flattens it would flatten it otherwise.
            return spaces.Dict(
                [(key, space_from_json(value)) for key, value in tree["spaces"].items()]
            )
        dtype = np.dtype(tree["dtype"])
        if kind == "Box":
            shape = tuple(int(size) for size in tree["shape"])
            low, high = (_bound_from_json(tree[name], shape, dtype) for name in ("low", "high"))
            return spaces.Box(low, high, shape, dtype.type)
        if kind == "Discrete":
            return spaces.Discrete(tree["n"], start=tree["start"], dtype=dtype.type)
        if kind == "MultiDiscrete":
            return spaces.MultiDiscrete(tree["nvec"], dtype=dtype.type, start=tree["start"])
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise TwinFormatError(f"this describes no space: {str(tree)[:200]} ({error})") from error
    raise TwinFormatError(
        f"unknown space type {kind!r}: expected Box, Discrete, MultiDiscrete or Dict"
    )


def _bound_to_json(bound: np.ndarray) -> Any:
    """One number where all are equal (images), else the nested list; infinities as words."""
    first = bound.reshape(-1)[:1]
    if bound.size and (bound == first).all():
        return _number_to_json(first[0])
    return [_number_to_json(value) for value in bound.reshape(-1)]


def _bound_from_json(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    numbers = value if isinstance(value, list) else [value]
    array = np.array([float(number) for number in numbers], dtype=np.float64).astype(dtype)
    return np.full(shape, array[0], dtype) if len(numbers) == 1 else array.reshape(shape)


def _number_to_json(value: Any) -> float | int | str:
    number = value.item()
    return number if math.isfinite(number) else str(number)


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


def check_same_spaces(
    other: Any,
    twin: WorldSpec,
    *,
    called: str = "the real environment's {}",
    advice: str = "use the environment, with its arguments and wrappers, that the twin was made from",
) -> None:
    """Raises SpaceMismatchError where an environment, or another spec, differs from a twin in its spaces.

    called: what a space of the other is called in the message, {} for its name.
    """
    for name in ("observation_space", "action_space"):
        theirs, ours = getattr(other, name), getattr(twin, name)
        if theirs != ours:
            raise SpaceMismatchError(
                f"{called.format(name)} is {theirs}, the twin's is {ours}: {advice}"
            )
