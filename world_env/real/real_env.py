"""Creation of real environments: the only place that makes them and counts their steps.

Each call of `step` is counted under a purpose, below all wrappers: a chunk of n actions costs n steps.
`StepLedger.total` leaves out the purpose "judge" by default. Above the wrappers stands the `Gate`, which checks and
converts all that goes in and out.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING

import gymnasium as gym
from gymnasium import spaces

from world_env.errors import (
    EnvApiError,
    MissingExtraError,
    StageError,
    UnsupportedSpaceError,
)
from world_env.real.env_config import AnyEnv, as_env_config, check_can_be_copied, given_env
from world_env.real.gate import CountedEnv, Gate, check_limit, constructed, smaller
from world_env.real.known import Known
from world_env.real.registered import check_is_env, check_is_real, is_ours, make_registered
from world_env.real.step_ledger import StepLedger
from world_env.real.wrapping import layers, refuse_moving_statistics, wrapped
from world_env.spaces import action_size, observation_spaces, wrapper_in_a_file
from world_env.spec import EnvConfig, WorldSpec, python_object
from world_env.struct import shortened
from world_env.wrappers.flat_dict_observation import with_flat_keys

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv


def make_real(
    real: AnyEnv, *, purpose: str, ledger: StepLedger, render_mode: str | None = None
) -> gym.Env:
    """Make a real environment whose steps are counted under `purpose`.

    real: what `as_env_config` takes: id, arguments and wrappers of the environment, or an object.
    purpose: one of `PURPOSES`.
    ledger: counts the steps.
    render_mode: passed to the environment; None: not passed.

    The environment checks what goes in and out, as `Gate` says. Raises StageError for an unknown id, an id of a learned
    environment, an unknown wrapper, a wrapper with running statistics or no time limit; MissingExtraError for a missing
    simulator; UnsupportedSpaceError for spaces that a twin does not support.
    """
    real = as_env_config(real)
    ledger.count(purpose, 0)
    base = CountedEnv(
        _made(real, render_mode),
        lambda: ledger.count(purpose),
        keep_open=given_env(real) is not None,
    )
    env: gym.Env = base
    try:
        for wrapper in real.wrappers:
            env = wrapped(env, wrapper)
        refuse_moving_statistics(env)
        _check_has_spaces(env)
        env = with_flat_keys(env)
        _check_spaces(env)
        env = Gate(env, real)
        if real.action_chunk > 1:
            from world_env.wrappers.action_chunk import ActionChunk

            env = ActionChunk(env, real.action_chunk)
        action_size(env.action_space)
    except BaseException:
        base.close()
        raise
    return env


def make_real_vec(
    real: AnyEnv,
    num_envs: int,
    *,
    purpose: str,
    ledger: StepLedger,
) -> VecEnv:
    """Make `num_envs` copies of a real environment as one Stable-Baselines3 `VecEnv`, wrapped in `VecMonitor`.

    One vector step counts `num_envs` real steps. Raises what `make_real` raises, StageError for several copies of one
    environment object and where only one can be open at a time, and MissingExtraError without Stable-Baselines3.
    """
    try:
        from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
    except ImportError as error:
        raise MissingExtraError(
            'Stable-Baselines3 is not installed: pip install "world-env[train]"'
        ) from error

    real = as_env_config(real)
    if num_envs > 1:
        check_can_be_copied(real, f"training with num_envs={num_envs}")
    made: list[gym.Env] = []
    try:
        for _ in range(num_envs):
            made.append(make_real(real, purpose=purpose, ledger=ledger))
    except BaseException as error:
        for env in made:
            env.close()
        if made and isinstance(error, Exception):
            raise StageError(
                f"{real.env_id} is open, but a second one at the same time cannot be made ({type(error).__name__}: "
                f"{error}): num_envs is {num_envs}, use num_envs=1 (--num-envs 1)"
            ) from error
        raise
    return VecMonitor(DummyVecEnv([partial(_the_same, env) for env in made]))


def _the_same(env: gym.Env) -> gym.Env:
    return env


def spec_of(real: AnyEnv) -> WorldSpec:
    """Read the spaces, the time limit and the step duration of a real environment, without a real step.

    A twin of this environment has the same `WorldSpec`. The environment is made once in a process; it may be slow to
    start. Raises what `make_real` raises.
    """
    real = as_env_config(real)
    spec, own = _read(real)
    limit = check_limit(real, smaller(own, real.horizon))
    return dataclasses.replace(spec, horizon=-(-limit // real.action_chunk))


def own_horizon(real: AnyEnv) -> int | None:
    """Time limit of a real environment in steps of a twin, or None where there is none. Raises as `make_real`."""
    real = as_env_config(real)
    # Without a time limit nothing can be made: any limit will do.
    own = _read(real if real.horizon is not None else real.replace(horizon=1))[1]
    limit = smaller(own, real.horizon)
    return None if limit is None else -(-limit // real.action_chunk)


def _read(real: EnvConfig) -> tuple[WorldSpec, int | None]:
    """(spec, time limit of the environment itself in steps), read once in a process."""
    found = _known.get(real)
    if found is None:
        env = make_real(real, purpose="collect", ledger=StepLedger())
        try:
            found = spec_from(env, real), _gate(env).own_limit
        finally:
            env.close()
        _known.add(real, found)
    return found


_known: Known[tuple[WorldSpec, int | None]] = Known()
"""What `_read` has read."""


def spec_from(env: gym.Env, real: EnvConfig) -> WorldSpec:
    """`spec_of` for an environment that `make_real` has made."""
    limit = _gate(env).limit
    seconds = _seconds_per_step(env)
    chunk = real.action_chunk
    return WorldSpec(
        observation_space=env.observation_space,
        action_space=env.action_space,
        horizon=-(-limit // chunk),
        seconds_per_step=None if seconds is None else seconds * chunk,
        real=_spec_text(env),
        action_chunk=chunk,
    )


def _gate(env: gym.Env) -> Gate:
    (gate,) = (layer for layer in layers(env) if isinstance(layer, Gate))
    return gate


def _made(real: EnvConfig, render_mode: str | None) -> gym.Env:
    """The environment of an id, of a function, or the one that a user passed."""
    arguments = dict(real.kwargs)
    if render_mode is not None:
        arguments["render_mode"] = render_mode
    target = python_object(real.env_id)
    if target is None:
        env = constructed(lambda: make_registered(real.env_id, arguments), real)
    elif isinstance(target, gym.Env):
        env = target
        if real.kwargs:
            raise StageError(
                f"kwargs are {shortened(real.kwargs)}, but an environment object was passed, which exists already: "
                "pass a function that makes the environment"
            )
    else:
        env = constructed(lambda: check_is_env(target(**arguments), real.env_id), real)
    # An id that its module registers on import, or a function as entry point, is known only now.
    try:
        check_is_real(real.env_id, is_ours(type(env.unwrapped)))
    except StageError:
        if target is not env:
            env.close()
        raise
    return env


def _check_has_spaces(env: gym.Env) -> None:
    """Raise EnvApiError for missing spaces."""
    for name in ("observation_space", "action_space"):
        space = getattr(env, name, None)
        if not isinstance(space, spaces.Space):
            raise EnvApiError(
                f"{name} of {type(env.unwrapped).__name__} is {space!r:.80}, expected a space of gymnasium.spaces: "
                f"set self.{name} in __init__"
            )


def _check_spaces(env: gym.Env) -> None:
    """Raise UnsupportedSpaceError for spaces that twins do not support."""
    for name in ("observation_space", "action_space"):
        space = getattr(env, name)
        has_keys = isinstance(space, spaces.Dict)
        parts = space.spaces if has_keys else {name: space}
        for key, part in parts.items():
            if 0 in (part.shape or ()):
                called = f"observation {key!r}" if has_keys else name
                drop = {"keys": [key]}
                advice = (
                    f" Leave the key out: WrapperConfig('world_env.wrappers:DropKeys', {drop}). "
                    + wrapper_in_a_file("world_env.wrappers:DropKeys", drop)
                )
                raise UnsupportedSpaceError(
                    f"{called} has the shape {part.shape}, which holds no numbers: expected at least one number."
                    + (advice if has_keys else "")
                )
    observation_spaces(env.observation_space)
    action_size(env.action_space)


def _spec_text(env: gym.Env) -> str | None:
    for layer in (env, env.unwrapped):
        try:
            return None if layer.spec is None else layer.spec.to_json()
        except (TypeError, ValueError):
            # JSON cannot name some wrappers and callable entry points: try the inner spec.
            continue
    return None


def _seconds_per_step(env: gym.Env) -> float | None:
    for name in ("dt", "tau"):
        value = getattr(env.unwrapped, name, None)
        if isinstance(value, int | float) and value > 0:
            return float(value)
    frames = (env.metadata or {}).get("render_fps")
    return 1.0 / float(frames) if isinstance(frames, int | float) and frames > 0 else None
