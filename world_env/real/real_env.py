"""Creation of real environments: the only place that makes them and counts their steps.

Each call of `step` is counted under a purpose, below all wrappers: a chunk of n actions costs n steps.
`StepLedger.total` leaves out the purpose "judge" by default.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import DependencyNotInstalled

from world_env.errors import InvalidActionError, MissingExtraError, StageError, WorldEnvError
from world_env.lazy import imported
from world_env.real.step_ledger import StepLedger
from world_env.spaces import action_size, observation_spaces
from world_env.spec import EnvConfig, WorldSpec, WrapperConfig
from world_env.wrappers.flat_dict_observation import with_flat_keys

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv


_EXTRAS = {
    "mujoco": "mujoco",
    "box2d": "box2d",
    "classic_control": "classic",
    "toy_text": "classic",
}
"""Part of a Gymnasium entry point -> extra of this package that installs its simulator."""
_PACKAGE = __name__.partition(".")[0]
_VERSION = re.compile(r"-v\d+$")


class _CountedEnv(gym.Wrapper):
    """Wrapper that counts every step. It is absent from `spec`, which therefore can be made again."""

    def __init__(self, env: gym.Env, count: Callable[[], None]) -> None:
        super().__init__(env)
        self._count = count

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override]
        return self.env.spec

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take one counted step. Raises InvalidActionError for NaN or infinite values, before the step."""
        array = np.asarray(action)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InvalidActionError(
                f"the action {array.tolist()!s:.80} for the real environment has NaN or infinite values: no step was "
                "taken. The usual cause is a policy that diverged."
            )
        # Count before the step: a step that crashes or is killed is spent as well.
        self._count()
        return self.env.step(action)


def make_real(
    real: EnvConfig, *, purpose: str, ledger: StepLedger, render_mode: str | None = None
) -> gym.Env:
    """Make a real environment whose steps are counted under `purpose`.

    real: id, arguments and wrappers of the environment.
    purpose: one of `PURPOSES`.
    ledger: counts the steps.
    render_mode: passed to the environment; None: not passed.

    Raises StageError for an unknown id, an id of a learned environment, or an unknown wrapper; MissingExtraError
    for a missing simulator; UnsupportedSpaceError for spaces that a twin does not support.
    """
    ledger.count(purpose, 0)
    base = _CountedEnv(_make_base(real, render_mode), lambda: ledger.count(purpose))
    env: gym.Env = base
    try:
        for wrapper in real.wrappers:
            env = _wrapped(env, wrapper)
        if real.action_chunk > 1:
            from world_env.wrappers.action_chunk import ActionChunk

            env = ActionChunk(env, real.action_chunk)
        env = with_flat_keys(env)
        observation_spaces(env.observation_space)
        action_size(env.action_space)
    except WorldEnvError:
        base.close()
        raise
    return env


def make_real_vec(
    real: EnvConfig,
    num_envs: int,
    *,
    purpose: str,
    ledger: StepLedger,
) -> VecEnv:
    """Make `num_envs` copies of a real environment as one Stable-Baselines3 `VecEnv`, wrapped in `VecMonitor`.

    One vector step counts `num_envs` real steps. Raises what `make_real` raises, and MissingExtraError without
    Stable-Baselines3.
    """
    try:
        from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
    except ImportError as error:
        raise MissingExtraError(
            'Stable-Baselines3 is not installed: pip install "world-env[train]"'
        ) from error

    maker = partial(make_real, real, purpose=purpose, ledger=ledger)
    return VecMonitor(DummyVecEnv([maker] * num_envs))


def spec_of(real: EnvConfig) -> WorldSpec:
    """Read the spaces, the time limit and the step duration of a real environment, without a real step.

    A twin of this environment has the same `WorldSpec`. Raises what `make_real` raises.
    """
    env = make_real(real, purpose="collect", ledger=StepLedger())
    try:
        return spec_from(env, real)
    finally:
        env.close()


def spec_from(env: gym.Env, real: EnvConfig) -> WorldSpec:
    """`spec_of` for an environment that `make_real` has made."""
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


def is_learned(spec: EnvSpec) -> bool:
    """Whether a Gymnasium spec makes a learned environment of this package instead of a real one."""
    return any(map(_is_ours, (spec.entry_point, spec.vector_entry_point)))


def _is_ours(entry_point: Any) -> bool:
    """Whether an entry point is, or derives from, a class of this package."""
    if isinstance(entry_point, str):
        modules = [entry_point.partition(":")[0]]
    else:
        parts = entry_point.__mro__ if isinstance(entry_point, type) else (entry_point,)
        modules = [getattr(part, "__module__", None) or "" for part in parts]
    return any(module.partition(".")[0] == _PACKAGE for module in modules)


def _check_is_real(env_id: str, learned: bool) -> None:
    if learned:
        raise StageError(
            f"{env_id!r} is a learned environment (a world model), expected a real one: its steps would be counted as "
            "real environment steps. Give the id of the real environment. To step or evaluate a twin, pass it as the "
            "twin (on the command line: --twin)."
        )


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


def _make_base(real: EnvConfig, render_mode: str | None) -> gym.Env:
    arguments = dict(real.kwargs)
    if render_mode is not None:
        arguments["render_mode"] = render_mode
    versions = _registered_versions(_name_of(real.env_id))
    _check_is_real(real.env_id, bool(versions) and all(map(is_learned, versions)))
    try:
        # The checker of Gymnasium slows down every step and repeats its warnings.
        env = gym.make(real.env_id, disable_env_checker=True, **arguments)
    except DependencyNotInstalled as error:
        raise MissingExtraError(
            f"the simulator of {real.env_id!r} is not installed ({error}). {_pip_line(real.env_id)}"
        ) from error
    except ModuleNotFoundError as error:
        raise StageError(
            f"cannot import the module of environment {real.env_id!r} ({error}). {_similar_ids(real.env_id)}"
        ) from error
    except (gym.error.UnregisteredEnv, gym.error.DeprecatedEnv) as error:
        # The text of Gymnasium's error is left out: it suggests ids of learned environments.
        raise StageError(
            f"unknown environment id {real.env_id!r}. {_similar_ids(real.env_id)}"
        ) from error
    except (gym.error.Error, TypeError) as error:
        raise StageError(
            f"cannot make {real.env_id!r} with the arguments {arguments}: {error}. Check the id and the arguments."
        ) from error
    # An id that its module registers on import, or a function as entry point, is known only now.
    try:
        _check_is_real(real.env_id, _is_ours(type(env.unwrapped)))
    except StageError:
        env.close()
        raise
    return env


def _name_of(env_id: str) -> str:
    """The id without the module in front of it."""
    return env_id.rpartition(":")[2]


def _registered_versions(name: str) -> list[EnvSpec]:
    """The spec with this id, or else those of the same id in other versions."""
    if name in gym.registry:
        return [gym.registry[name]]
    stem = _VERSION.sub("", name)
    return [spec for spec in gym.registry.values() if _VERSION.sub("", spec.id) == stem]


def _pip_line(env_id: str) -> str:
    entry = str(gym.spec(_name_of(env_id)).entry_point)
    for part, extra in _EXTRAS.items():
        if part in entry:
            return f'Install it: pip install "world-env[{extra}]"'
    return "Install the package that registers this environment, with its extras."


def _similar_ids(env_id: str) -> str:
    """Registered ids of real environments with a similar name, and how to name an id of another package."""
    known = {name.lower(): name for name, spec in gym.registry.items() if not is_learned(spec)}
    matches = difflib.get_close_matches(_name_of(env_id).lower(), known, n=5, cutoff=0.5)
    advice = (
        'Write an id of another package as "module:Id": importing the module must register the id.'
    )
    return f"Did you mean {', '.join(known[m] for m in matches)}? {advice}" if matches else advice


def _wrapped(env: gym.Env, config: WrapperConfig) -> gym.Env:
    """The environment in one of `EnvConfig.wrappers`."""
    name = config.name
    try:
        wrapper = imported(name)
    except (ImportError, AttributeError) as error:
        raise StageError(
            f'cannot load the wrapper {name!r} ({error}): expected "module:Class", for example '
            '"gymnasium.wrappers:FlattenObservation"'
        ) from error
    if not callable(wrapper):
        raise StageError(
            f"wrapper {name!r} is of type {type(wrapper).__name__}, expected a wrapper class"
        )
    # Gymnasium's wrappers take shapes as tuples; JSON has lists only.
    arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in config.kwargs.items()}
    try:
        made: gym.Env = wrapper(env, **arguments)
    except WorldEnvError:
        raise
    except DependencyNotInstalled as error:
        raise MissingExtraError(
            f"a package that the wrapper {name!r} needs is not installed ({error}). Install it; for the image wrappers "
            'of Gymnasium: pip install "world-env[pixels]"'
        ) from error
    except (AssertionError, TypeError, ValueError) as error:
        raise StageError(
            f"wrapper {name!r} failed on {env} with the arguments {arguments} ({type(error).__name__}: {error}). "
            "Check the signature of the wrapper."
        ) from error
    return made
