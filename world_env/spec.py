"""What a world is from outside: its spaces, its time limit, its units, and where it came from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from world_env.errors import InvalidOptionError, SpaceMismatchError, StageError, TwinFormatError
from world_env.spaces import space_from_json, space_to_json
from world_env.types import JSON


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


@dataclass(frozen=True)
class EnvConfig:
    """Which real environment, and how it is wrapped."""

    env_id: str
    """A Gymnasium id, or "module:Id" where importing the module registers it."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """JSON-able keyword arguments of the environment."""
    wrappers: tuple[str, ...] = ()
    """Wrappers as "module:Class" or "module:Class{JSON of arguments}", innermost first; each is called with the
    environment and the arguments, lists as tuples: 'gymnasium.wrappers:ResizeObservation{"shape": [64, 64]}'."""
    action_chunk: int = 1
    """Real actions that one action of the wrapped environment plays."""

    def __post_init__(self) -> None:
        if self.action_chunk < 1:
            raise InvalidOptionError(f"action_chunk is {self.action_chunk}, expected at least 1")
        try:
            json.dumps(self.kwargs, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InvalidOptionError(
                f"kwargs {self.kwargs!r} are not strict JSON: {error}"
            ) from error

    def to_json(self) -> JSON:
        """A strict JSON tree."""
        return {**asdict(self), "wrappers": list(self.wrappers)}

    @classmethod
    def from_json(cls, tree: Any) -> EnvConfig:
        """The inverse of `to_json`. Raises StageError."""
        try:
            return cls(**{**tree, "wrappers": tuple(tree["wrappers"])})
        except (KeyError, TypeError, ValueError) as error:
            raise StageError(
                f"this describes no real environment: {str(tree)[:200]} ({error})"
            ) from error
