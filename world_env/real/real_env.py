"""The only place where real environments are made, and where their steps are counted.

Real steps are money: every `step` is counted under a purpose, beneath all wrappers, so that a chunk
of n actions costs n. Only "judge" is free.
"""

from __future__ import annotations

import difflib
import importlib
import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from gymnasium.error import DependencyNotInstalled

from world_env.errors import MissingExtraError, StageError, WorldEnvError
from world_env.real.step_ledger import StepLedger
from world_env.spaces import action_size, observation_spaces
from world_env.spec import EnvConfig, WorldSpec

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv


_EXTRAS = {
    "mujoco": "mujoco",
    "box2d": "box2d",
    "classic_control": "classic",
    "toy_text": "classic",
}


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
    real: EnvConfig, *, purpose: str, ledger: StepLedger, render_mode: str | None = None
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
            from world_env.wrappers.action_chunk import ActionChunk

            env = ActionChunk(env, real.action_chunk)
        observation_spaces(env.observation_space)
        action_size(env.action_space)
    except WorldEnvError:
        base.close()
        raise
    return env


def make_real_vec(
    real: EnvConfig,
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


def spec_of(real: EnvConfig) -> WorldSpec:
    """The interface that a twin of this environment must share; takes no real step."""
    env = make_real(real, purpose="collect", ledger=StepLedger())
    try:
        return spec_from(env, real)
    finally:
        env.close()


def spec_from(env: gym.Env, real: EnvConfig) -> WorldSpec:
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


def _make_base(real: EnvConfig, render_mode: str | None) -> gym.Env:
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
    """An environment in one of `EnvConfig.wrappers`."""
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
