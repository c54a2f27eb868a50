"""Specification of an environment: spaces, time limit, units and origin."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import gymnasium
import msgspec
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from world_env.errors import InvalidOptionError, SpaceMismatchError, StageError, TwinFormatError
from world_env.spaces import (
    category_sizes,
    encoded_shape,
    is_image,
    observation_spaces,
    space_from_json,
    space_to_json,
    wrapper_in_a_file,
)
from world_env.struct import Struct, plain, shortened
from world_env.types import JSON

_CLASS = re.compile(r"[\w.]+:\w+")
_MAX_PAIRS = 1 << 20
_PYTHON = "python:"
"""Beginning of the id of an environment that is a Python object."""


class Angle(NamedTuple):
    """Column of a Box observation that wraps: a step beyond one end of its range arrives at the other end.

    column: index in the flattened observation of the key.
    low, period: the values lie in [low, low + period), in the units of the environment.
    """

    column: int
    low: float
    period: float


@dataclass(frozen=True)
class WorldSpec:
    """Specification that a twin shares with the real environment.

    observation_space, action_space: spaces of the real environment, dtypes included.
    horizon: time limit of the task in steps, counted from `reset()` of the real environment; None: no limit.
    seconds_per_step: simulated seconds per step; None: unknown.
    real: JSON text of the `gymnasium` EnvSpec of the real environment; None: the data came without an environment.
    action_chunk: number of real actions that one action holds (1: no chunks).
    angles: key -> angles of a Box observation, which models see as cosine and sine (`encoded_shapes`).
    Raises ValueError if `horizon` or `action_chunk` is less than 1, or if an angle does not fit the observation space.
    """

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    horizon: int | None = None
    seconds_per_step: float | None = None
    real: str | None = None
    action_chunk: int = 1
    angles: Mapping[str, tuple[Angle, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.horizon is not None and self.horizon < 1:
            raise ValueError(f"horizon is {self.horizon}, expected at least 1 step")
        if self.action_chunk < 1:
            raise ValueError(f"action_chunk is {self.action_chunk}, expected at least 1")
        if self.angles:
            _check_angles(self.angles, self.observation_space)

    @property
    def real_id(self) -> str | None:
        """Gymnasium id of the real environment; None if unknown."""
        return None if self.real is None else json.loads(self.real).get("id")

    @property
    def pairs(self) -> int | None:
        """Number of pairs of state and action; None unless all their components are categories."""
        parts = [*observation_spaces(self.observation_space).values(), self.action_space]
        sizes = [category_sizes(part) for part in parts]
        return math.prod(itertools.chain(*sizes)) if all(sizes) else None

    @property
    def is_table(self) -> bool:
        """Whether state and action are categories with few enough pairs (2**20) to keep an entry for each."""
        return self.pairs is not None and self.pairs <= _MAX_PAIRS

    def to_json(self) -> JSON:
        """Convert to strict JSON (no NaN, no Infinity). `from_json` returns an equal spec."""
        tree: JSON = {
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "horizon": self.horizon,
            "seconds_per_step": self.seconds_per_step,
            "real": self.real,
            "action_chunk": self.action_chunk,
        }
        if self.angles:
            tree["angles"] = {
                key: [list(each) for each in part] for key, part in self.angles.items()
            }
        return tree

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> WorldSpec:
        """Inverse of `to_json`. Raises TwinFormatError for missing or unknown fields and for wrong types."""
        names = set(cls.__dataclass_fields__)
        if set(tree) | {"angles"} != names:
            raise TwinFormatError(
                f"the spec has the fields {sorted(tree)}, expected {sorted(names)}: restore the file if it was edited"
            )
        for name in ("horizon", "action_chunk"):
            if not (tree[name] is None and name == "horizon") and type(tree[name]) is not int:
                raise TwinFormatError(f"spec field {name!r} is {tree[name]!r}, expected an integer")
        seconds, real = tree["seconds_per_step"], tree["real"]
        if seconds is not None and (type(seconds) not in (int, float) or seconds <= 0):
            raise TwinFormatError(
                f"spec field 'seconds_per_step' is {seconds!r}, expected a number > 0 or null"
            )
        if real is not None and not _has_id(real):
            raise TwinFormatError(f"spec field 'real' is {real!r:.80}, expected JSON with an 'id'")
        values = dict(tree)
        for name in ("observation_space", "action_space"):
            values[name] = space_from_json(tree[name])
        try:
            values["angles"] = _angles_from_json(tree.get("angles", {}))
            return cls(**values)
        except (TypeError, ValueError, AttributeError) as error:
            raise TwinFormatError(f"invalid spec: {error}") from error


def encoded_shapes(spec: WorldSpec) -> dict[str, tuple[int, ...]]:
    """Shape O of one encoded observation of each key, in the order in which models lay out their weights.

    It is the shape of the space (`world_env.spaces.encoded_shape`) for a key without angles. A key with n angles is
    flat: the cosine is in the column of its angle, and the n sines follow after the last column.
    """
    parts = observation_spaces(spec.observation_space)
    shapes = {key: encoded_shape(space) for key, space in parts.items()}
    for key, angles in spec.angles.items():
        shapes[key] = (math.prod(shapes[key]) + len(angles),)
    return shapes


def _check_angles(
    angles: Mapping[str, tuple[Angle, ...]], observation_space: spaces.Space[Any]
) -> None:
    parts = observation_spaces(observation_space)
    for key, columns in angles.items():
        space = parts.get(key)
        if not isinstance(space, spaces.Box) or is_image(space):
            raise ValueError(f"angles names {key!r}, expected a key of a Box that is not an image")
        size, last = math.prod(space.shape), -1
        for column, low, period in columns:
            if not last < column < size:
                raise ValueError(
                    f"column {column} of the angles of {key!r} is not a rising index below {size}"
                )
            if not (math.isfinite(low) and math.isfinite(period) and period > 0.0):
                raise ValueError(
                    f"angle {column} of {key!r} has low {low} and period {period}, expected finite numbers and "
                    "period > 0"
                )
            last = column


def _angles_from_json(tree: Any) -> dict[str, tuple[Angle, ...]]:
    """Raises TypeError, ValueError or AttributeError unless `tree` is key -> list of [column, low, period]."""
    found = {key: tuple(Angle(*each) for each in columns) for key, columns in tree.items()}
    for column, *numbers in (angle for part in found.values() for angle in part):
        if type(column) is not int or not all(type(each) in (int, float) for each in numbers):
            raise ValueError(f"an angle is {[column, *numbers]}, expected [column, low, period]")
    return {key: part for key, part in found.items() if part}


def _has_id(text: Any) -> bool:
    try:
        return isinstance(json.loads(text)["id"], str)
    except (TypeError, ValueError, KeyError):
        return False


class SpecOfStrings:
    """Mixin for environments: `spec` stores the path of its twin as a string, which `spec.to_json()` needs."""

    _spec: EnvSpec | None = None

    @property
    def spec(self) -> EnvSpec | None:
        """The EnvSpec that `gym.make` used; None if the environment was created by its constructor."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        twin = None if spec is None else spec.kwargs.get("twin")
        if spec is not None and isinstance(twin, os.PathLike):
            # With a separator: a name without one means a bundled twin.
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
    """Check that an environment, or another spec, has the spaces of a twin. Raises SpaceMismatchError otherwise.

    other: an environment or a spec. twin: the spec of the twin.
    called: name of the other's space in the message; {} is replaced by "observation_space" or "action_space".
    advice: last part of the message.
    """
    for name in ("observation_space", "action_space"):
        found, expected = getattr(other, name), getattr(twin, name)
        if found != expected:
            raise SpaceMismatchError(
                f"{called.format(name)} is {found}, expected the twin's {expected}: {advice}"
            )


class PythonEnv(str):
    """Id of an environment that is a Python object, "python:module.qualname". It carries the object."""

    target: Any


_objects: dict[str, Callable[[], Any]] = {}
"""Id of a Python object of this process -> function that returns the object, or None where it is gone."""


def _python_env(target: Any) -> PythonEnv:
    """Return the id of a callable that makes an environment, or of an environment, and remember the object.

    The id is the same in every process, so that a run of the same script is resumed. Only the id carries the object
    with certainty: other objects may have the same name.
    """
    made = isinstance(target, gymnasium.Env)
    named = (
        target if hasattr(target, "__qualname__") else type(target.unwrapped if made else target)
    )
    name = f"{_PYTHON}{named.__module__}.{named.__qualname__}" + (
        "()" if named is not target else ""
    )
    before = _objects.get(name, lambda: None)()
    # A name without "<lambda>", "<locals>" or "()" is that of a variable of a module: its newest value counts.
    several = before is not None and before is not target and any(sign in name for sign in "<(")
    if several:
        _objects[name] = lambda: NotImplemented
    else:
        _objects[name] = weakref.ref(target) if made else lambda: target
    made_id = PythonEnv(name)
    made_id.target = target
    return made_id


def python_object(env_id: str) -> Any:
    """Return the Python object of an environment's id, or None where the id is that of a registered environment.

    Raises StageError for an object that this process does not have, or not only once.
    """
    if isinstance(env_id, PythonEnv):
        return env_id.target
    if not env_id.startswith(_PYTHON):
        return None
    found = _objects.get(env_id, lambda: None)()
    if found is None or found is NotImplemented:
        why = (
            "does not have"
            if found is None
            else "has several times, so the name does not say which one is meant"
        )
        raise StageError(
            f"the real environment {env_id!r} is a Python object, which this process {why}: pass the object itself "
            "(`real=`), a function that makes the environment or an environment. On the command line give the id of "
            'a registered environment, "module:Id".'
        )
    return found


class WrapperConfig(Struct, frozen=True):
    """Wrapper of a real environment."""

    name: str
    """The class as "module:Class". It is called with the environment and the arguments."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments of the wrapper; strict JSON values only. Lists become tuples."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _CLASS.fullmatch(self.name):
            raise InvalidOptionError(
                f'the wrapper is {shortened(self.name)}, expected "module:Class", for example '
                '"gymnasium.wrappers:FlattenObservation". Arguments stand apart: '
                'WrapperConfig("module:Class", {"name": value}). '
                + wrapper_in_a_file("module:Class", {"name": 1})
            )
        _take_json(self, "kwargs")


class EnvConfig(Struct, frozen=True):
    """Real environment: its id, its arguments, its wrappers and its time limit.

    In Python, `env_id` may also be a function (or a class) that makes the environment, or an environment. An
    environment is used as it is and is never closed. Both exist in this process only: in files they have an id of the
    form "python:module.qualname".
    """

    omitted_if_none: ClassVar[tuple[str, ...]] = ("horizon", "reset_options")

    env_id: str
    """Gymnasium id of the real environment; "module:Id" if importing the module registers the id; or "module:Class" or
    "module:function"."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments of the environment; strict JSON values only."""
    wrappers: tuple[WrapperConfig, ...] = ()
    """Wrappers of the environment, innermost first."""
    action_chunk: int = 1
    """Number of real actions that one action of the wrapped environment holds (1: no chunks)."""
    horizon: int | None = None
    """Time limit of an episode in steps of the environment; episodes are truncated there. If the environment has a
    limit too, the smaller one applies. None: the limit with which the environment is registered."""
    reset_options: dict[str, Any] | None = None
    """Options of every reset, as in `env.reset(options=...)`; strict JSON values only. None: no options."""

    def __post_init__(self) -> None:
        if callable(self.env_id) or isinstance(self.env_id, gymnasium.Env):
            msgspec.structs.force_setattr(self, "env_id", _python_env(self.env_id))
        # A subclass, of the command line, can do without an id.
        elif not isinstance(self.env_id, str) and (
            self.env_id is not None or type(self) is EnvConfig
        ):
            raise InvalidOptionError(
                f"the real environment is {self.env_id!r:.80} ({type(self.env_id).__name__}), expected the id of an "
                "environment, a function that makes an environment, a gymnasium.Env or an EnvConfig"
            )
        elif isinstance(self.env_id, str) and not all(map(str.strip, self.env_id.split(":"))):
            raise InvalidOptionError(
                f'the id of the real environment is {self.env_id!r:.80}, expected "Id-v0", or "module:Id-v0" if '
                "importing the module registers the id"
            )
        for name in ("action_chunk", "horizon"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidOptionError(f"{name} is {value}, expected at least 1")
        if not isinstance(self.wrappers, tuple | list):
            raise InvalidOptionError(
                f"wrappers is {shortened(self.wrappers)}, expected a tuple of WrapperConfig"
            )
        for wrapper in self.wrappers:
            if not isinstance(wrapper, WrapperConfig):
                raise InvalidOptionError(
                    f'wrappers holds {shortened(wrapper)}, expected WrapperConfig("module:Class", kwargs)'
                )
        _take_json(self, "kwargs")
        _take_json(self, "reset_options")


def _take_json(settings: Struct, name: str) -> None:
    """Replace numpy numbers in a dict of settings. Raises InvalidOptionError for what JSON cannot hold."""
    values = getattr(settings, name)
    try:
        if not (isinstance(values, dict) or (values is None and name == "reset_options")):
            raise TypeError("expected a dict")
        json.dumps(values := plain(values), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidOptionError(
            f"{name} is {shortened(values)}, expected strict JSON values: {error}"
        ) from error
    msgspec.structs.force_setattr(settings, name, values)
