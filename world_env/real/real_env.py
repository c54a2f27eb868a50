"""The only place where real environments are made, and where their steps are counted.

Real steps are money: every `step` is counted under a purpose, beneath all wrappers, so that a chunk
of n actions costs n. Only "judge" is free.
"""

from __future__ import annotations

import difflib
import importlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from gymnasium.error import DependencyNotInstalled

from world_env.codec import action_size, observation_spaces
from world_env.errors import (
    InvalidOptionError,
    MissingExtraError,
    StageError,
    WorldEnvError,
)
from world_env.spec import JSON, WorldSpec

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

PURPOSES = ("collect", "validate", "select", "spot_check", "judge")
"""What a real step may be spent on."""

_RESERVED_STEPS = 100
"""Steps that a ledger on disk books in advance: what a killed process may overcount, never "
"under."""

_EXTRAS = {
    "mujoco": "mujoco",
    "box2d": "box2d",
    "classic_control": "classic",
    "toy_text": "classic",
}


class StepLedger:
    """Counts real steps by purpose; on disk it never forgets one, even after kill -9.

    path: JSON file to keep the counts in; None: in memory. The file is never below the truth:
        steps are booked in blocks before they are taken, and `save` settles the account.
    parent: a wider ledger that counts the same steps too.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, parent: StepLedger | None = None
    ) -> None:
        self._path = None if path is None else Path(path)
        self._parent = parent
        self._counts: dict[str, int] = {}
        if self._path is not None and self._path.exists():
            try:
                self._counts = _checked_counts(json.loads(self._path.read_text(encoding="utf-8")))
            except (OSError, ValueError) as error:
                raise StageError(
                    f"{self._path} is no step ledger ({error}): restore it, or delete it if the "
                    "steps counted in it may be forgotten"
                ) from error
        self._booked = dict(self._counts)

    @property
    def by_purpose(self) -> dict[str, int]:
        """Steps counted so far, purpose -> steps; purposes without a step are absent."""
        return dict(self._counts)

    def count(self, purpose: str, n: int = 1) -> None:
        """Add `n` >= 0 real steps under a purpose."""
        if purpose not in PURPOSES or n < 0:
            raise ValueError(
                f"cannot count {n} steps for {purpose!r}: expected one of {', '.join(PURPOSES)} "
                "and at least 0 steps"
            )
        if n == 0:
            return
        self._counts[purpose] = self._counts.get(purpose, 0) + n
        if self._path is not None and self._counts[purpose] > self._booked.get(purpose, 0):
            self._booked[purpose] = self._counts[purpose] + _RESERVED_STEPS
            self._write(self._booked)
        if self._parent is not None:
            self._parent.count(purpose, n)

    def total(self, exclude: Iterable[str] = ("judge",)) -> int:
        """All steps but those of the excluded purposes."""
        left_out = set(exclude)
        return sum(n for purpose, n in self._counts.items() if purpose not in left_out)

    def save(self) -> None:
        """Settle: steps that were booked but not taken are given back."""
        self._booked = dict(self._counts)
        if self._path is not None:
            self._write(self._booked)
        if self._parent is not None:
            self._parent.save()

    def to_json(self) -> JSON:
        """A strict JSON tree, purpose -> steps."""
        return dict(self._counts)

    @classmethod
    def from_json(cls, tree: Any) -> StepLedger:
        """The inverse of `to_json`, in memory. Raises StageError on anything else."""
        ledger = cls()
        try:
            ledger._counts = _checked_counts(tree)
        except ValueError as error:
            raise StageError(
                f"this describes no step ledger: {str(tree)[:200]} ({error})"
            ) from error
        return ledger

    def _write(self, counts: dict[str, int]) -> None:
        assert self._path is not None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            beside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
            beside.write_text(json.dumps(counts), encoding="utf-8")
            os.replace(beside, self._path)
        except OSError as error:
            raise StageError(
                f"cannot write the step ledger {self._path}: {error}. Free some space, or choose a "
                "folder that can be written."
            ) from error


def _checked_counts(tree: Any) -> dict[str, int]:
    if not isinstance(tree, dict) or not set(tree) <= set(PURPOSES):
        raise ValueError(f"expected an object with keys among {', '.join(PURPOSES)}")
    if not all(type(steps) is int and steps >= 0 for steps in tree.values()):
        raise ValueError("expected whole numbers of steps, at least 0")
    return dict(tree)


@dataclass(frozen=True)
class RealConfig:
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
    def from_json(cls, tree: Any) -> RealConfig:
        """The inverse of `to_json`. Raises StageError."""
        try:
            return cls(**{**tree, "wrappers": tuple(tree["wrappers"])})
        except (KeyError, TypeError, ValueError) as error:
            raise StageError(
                f"this describes no real environment: {str(tree)[:200]} ({error})"
            ) from error


class _CountedEnv(gym.Wrapper):
    """Counts every step; invisible in `spec`, so that a spec read through it can be made again."""

    def __init__(self, env: gym.Env, count: Callable[[], None]) -> None:
        super().__init__(env)
        self._count = count

    @property
    def spec(self) -> gym.envs.registration.EnvSpec | None:  # type: ignore[override]
        return self.env.spec

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        # Before the step: one that crashes or is killed was spent all the same.
        self._count()
        return self.env.step(action)


def make_real(
    real: RealConfig, *, purpose: str, ledger: StepLedger, render_mode: str | None = None
) -> gym.Env:
    """The real environment, its steps counted under `purpose`.

    Raises StageError for an unknown id or wrapper, MissingExtraError for a missing simulator,
    UnsupportedSpaceError for spaces that twins do not cover.
    """
    ledger.count(purpose, 0)
    base = _CountedEnv(_make_base(real, render_mode), lambda: ledger.count(purpose))
    env: gym.Env = base
    try:
        for name in real.wrappers:
            env = _wrapped(env, name)
        if real.action_chunk > 1:
            from world_env.wrappers import ActionChunk

            env = ActionChunk(env, real.action_chunk)
        observation_spaces(env.observation_space)
        action_size(env.action_space)
    except WorldEnvError:
        base.close()
        raise
    return env


def make_real_vec(
    real: RealConfig,
    rows: int,
    *,
    purpose: str,
    ledger: StepLedger,
) -> VecEnv:
    """`rows` real environments as one Stable-Baselines3 VecEnv with episode statistics."""
    try:
        from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
    except ImportError as error:
        raise MissingExtraError(
            'Stable-Baselines3 is not installed: pip install "world-env[train]"'
        ) from error

    maker = partial(make_real, real, purpose=purpose, ledger=ledger)
    return VecMonitor(DummyVecEnv([maker] * rows))


def spec_of(real: RealConfig) -> WorldSpec:
    """The interface that a twin of this environment must share; takes no real step."""
    env = make_real(real, purpose="collect", ledger=StepLedger())
    try:
        return spec_from(env, real)
    finally:
        env.close()


def spec_from(env: gym.Env, real: RealConfig) -> WorldSpec:
    """`spec_of` for an environment that `make_real` has already made."""
    limit = None if env.spec is None else env.spec.max_episode_steps
    seconds = _seconds_per_step(env)
    chunk = real.action_chunk
    return WorldSpec(
        observation_space=env.observation_space,
        action_space=env.action_space,
        horizon=None if limit is None else -(-limit // chunk),
        seconds_per_step=None if seconds is None else seconds * chunk,
        real=_spec_text(env),
        action_chunk=chunk,
    )


def _spec_text(env: gym.Env) -> str | None:
    for layer in (env, env.unwrapped):
        try:
            return None if layer.spec is None else layer.spec.to_json()
        except (TypeError, ValueError):
            # A wrapper or a callable entry point that JSON cannot name: the inner spec may do.
            continue
    return None


def _seconds_per_step(env: gym.Env) -> float | None:
    for name in ("dt", "tau"):
        value = getattr(env.unwrapped, name, None)
        if isinstance(value, int | float) and value > 0:
            return float(value)
    frames = (env.metadata or {}).get("render_fps")
    return 1.0 / float(frames) if isinstance(frames, int | float) and frames > 0 else None


def _make_base(real: RealConfig, render_mode: str | None) -> gym.Env:
    arguments = dict(real.kwargs)
    if render_mode is not None:
        arguments["render_mode"] = render_mode
    try:
        # Gymnasium's own checker warns about, and slows down, every step.
        return gym.make(real.env_id, disable_env_checker=True, **arguments)
    except DependencyNotInstalled as error:
        raise MissingExtraError(
            f"{real.env_id} needs a simulator that is not installed ({error}). "
            f"{_pip_line(real.env_id)}"
        ) from error
    except (gym.error.UnregisteredEnv, gym.error.DeprecatedEnv, ModuleNotFoundError) as error:
        raise StageError(
            f"no environment {real.env_id!r} ({error}). {_near(real.env_id)}"
        ) from error
    except (gym.error.Error, TypeError) as error:
        raise StageError(
            f"{real.env_id!r} cannot be made with {arguments}: {error}. Check its id and arguments."
        ) from error


def _pip_line(env_id: str) -> str:
    entry = str(gym.spec(env_id.rpartition(":")[2]).entry_point)
    for part, extra in _EXTRAS.items():
        if part in entry:
            return f'Install it with: pip install "world-env[{extra}]"'
    return "Install the package that registers it, with its extras."


def _near(env_id: str) -> str:
    known = {name.lower(): name for name in gym.registry}
    matches = difflib.get_close_matches(env_id.rpartition(":")[2].lower(), known, n=5, cutoff=0.5)
    advice = 'An id of another package is written "module:Id".'
    return f"Did you mean {', '.join(known[m] for m in matches)}? {advice}" if matches else advice


def _wrapped(env: gym.Env, written: str) -> gym.Env:
    """An environment in one of `RealConfig.wrappers`."""
    name, brace, rest = written.partition("{")
    module, _, attribute = name.partition(":")
    try:
        wrapper = getattr(importlib.import_module(module), attribute)
        given = json.loads(brace + rest or "{}")
    except (ImportError, AttributeError, ValueError) as error:
        raise StageError(
            f'no wrapper {written!r} ({error}): expected "module:Class", for example '
            '"gymnasium.wrappers:FlattenObservation", or "module:Class{JSON of arguments}"'
        ) from error
    if not callable(wrapper):
        raise StageError(f"{name!r} is a {type(wrapper).__name__}, expected a wrapper class")
    # Gymnasium's wrappers want shapes as tuples, which JSON does not have.
    arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
    try:
        made: gym.Env = wrapper(env, **arguments)
    except WorldEnvError:
        raise
    except DependencyNotInstalled as error:
        raise MissingExtraError(
            f'{name} needs a package that is not installed ({error}): pip install "world-env[pixels]" has those of '
            "Gymnasium's image wrappers"
        ) from error
    except (AssertionError, TypeError, ValueError) as error:
        raise StageError(
            f"{name} cannot wrap {env} with the arguments {arguments} ({type(error).__name__}: {error}): see its "
            "signature"
        ) from error
    return made
