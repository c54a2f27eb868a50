"""The wrapper around every real environment: API, types, actions and time limit."""

from __future__ import annotations

import inspect
import math
import operator
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from world_env.errors import EnvApiError, InvalidActionError, StageError, WorldEnvError
from world_env.real.observation_check import observation_check
from world_env.real.wrapping import layers
from world_env.spec import EnvConfig
from world_env.struct import shortened

_USAGE_ERRORS = (
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    gym.error.Error,
)
"""Errors of a constructor, of `reset` and of the first `step` that usually mean another API or wrong arguments."""
_RESET = "def reset(self, *, seed=None, options=None): ...; return observation, info"
_STEP = "def step(self, action): ...; return observation, reward, terminated, truncated, info"
_LIMIT_NAMES = ("max_steps", "max_episode_steps", "_max_episode_steps", "episode_length", "horizon")
"""Attributes in which environments keep a time limit of their own."""
_NOTE = "world_env_note"
"""Attribute of an error that a real environment raised: where it happened."""


def environment_note(error: BaseException) -> tuple[str, str] | None:
    """Where a real environment raised this error, and the traceback inside of the environment; None: elsewhere."""
    note = getattr(error, _NOTE, None)
    if note is None:
        return None
    frames = traceback.extract_tb(error.__traceback__)
    own = [number for number, frame in enumerate(frames) if frame.filename == __file__]
    # An error of another process has lost its frames.
    inside = frames[own[-1] + 1 :] if own else frames
    return note, "".join(traceback.format_list(inside))


def _note(error: Exception, note: str) -> None:
    """Note in an error of the environment's own code where it happened. `environment_note` reads the note."""
    if not isinstance(error, WorldEnvError):
        # As `add_note` of Python 3.11: tracebacks show the note there. It is pickled with the error.
        error.__dict__.setdefault("__notes__", []).append(note)
        error.__dict__[_NOTE] = note


def described_error(error: BaseException) -> str:
    """Type, text and place of an error, for the message of another one."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error}, in {Path(place.filename).name}, line {place.lineno}"


def constructed(make: Callable[[], Any], config: EnvConfig) -> Any:
    """Call what makes a real environment. Raises StageError for errors that usually mean wrong arguments."""
    try:
        return make()
    except WorldEnvError:
        raise
    except _USAGE_ERRORS as error:
        raise StageError(
            f"cannot make {config.env_id} with the arguments {shortened(config.kwargs)} ({described_error(error)}): "
            "check the arguments, EnvConfig.kwargs (--env-kwargs JSON)"
        ) from error
    except Exception as error:
        _note(error, f"raised by the creation of the real environment {config.env_id}")
        raise


class CountedEnv(gym.Wrapper):
    """Wrapper that counts every step. It is absent from `spec`, which therefore can be made again.

    keep_open: the environment belongs to the user: `close` leaves it open. `taken` is the number of steps so far.
    """

    def __init__(self, env: gym.Env, count: Callable[[], None], *, keep_open: bool = False) -> None:
        super().__init__(env)
        self.taken = 0
        self._count, self._keep_open = count, keep_open

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override]
        """The EnvSpec of the environment, without this wrapper."""
        return self.env.spec

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take one counted step. Raises InvalidActionError for NaN or infinite values, before the step."""
        if type(action) is not int:
            _check_finite(np.asarray(action))  # here too: wrappers compute actions
        # Count before the step: a step that crashes or is killed is spent as well.
        self._count()
        self.taken += 1
        return self.env.step(action)

    def close(self) -> None:
        """Close the environment, unless it belongs to the user."""
        if not self._keep_open:
            self.env.close()


class Gate(gym.Wrapper):
    """Wrapper of every real environment that checks and converts its inputs and outputs.

    - Actions: Discrete as `int`, others as a new array of the type of the space. InvalidActionError comes before
      a step.
    - Observations: of the shape, the keys and the type of the space, and finite. A cast that would change a value is
      refused.
    - Rewards are finite numbers; `terminated` and `truncated` are bool; `info` is a dict.
    - The episode is truncated after `limit` steps: the smaller one of the environment's limit and `EnvConfig.horizon`.
    - `options` are passed to every reset.

    Raises StageError without a time limit, EnvApiError for an environment with another API, with what came and what is
    expected.
    """

    def __init__(self, env: gym.Env, config: EnvConfig) -> None:
        super().__init__(env)
        self.own_limit = own_limit(env)
        self.limit = check_limit(config, smaller(self.own_limit, config.horizon), env)
        self._config = config
        self._steps = 0
        self._was_reset = self._was_stepped = False
        self._seed: int | None = None
        self._check = observation_check(env.observation_space)
        self._to_env = action_check(env.action_space)

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override]
        """The EnvSpec of the environment, without this wrapper."""
        return self.env.spec

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environment, with the `reset_options` of its settings."""
        given = self._config.reset_options if options is None else options
        seed = None if seed is None else operator.index(seed)  # Gymnasium refuses numpy integers
        try:
            result: Any = self.env.reset(seed=seed, options=given)
        except Exception as error:
            if isinstance(error, _USAGE_ERRORS) and not (
                self._was_reset or isinstance(error, WorldEnvError)
            ):
                raise EnvApiError(self._failed("reset", error)) from error
            self._note(error, f"reset(seed={seed})")
            raise
        if not (isinstance(result, tuple) and len(result) == 2):
            raise EnvApiError(
                f"{self._method('reset')} returned {_described(result)}, expected (observation, info): write {_RESET}"
            )
        observation, info = result
        if not isinstance(info, dict):
            raise EnvApiError(
                f"{self._method('reset')} returned {_described(info)} as info, expected a dict: write {_RESET}"
            )
        self._steps, self._was_reset, self._seed = 0, True, seed
        return self._check(observation, self._where()), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step. Raises InvalidActionError before it, EnvApiError after it."""
        action = self._to_env(action)
        try:
            result: Any = self.env.step(action)
        except Exception as error:
            if isinstance(error, _USAGE_ERRORS) and not (
                self._was_stepped or isinstance(error, WorldEnvError)
            ):
                raise EnvApiError(self._failed("step", error)) from error
            self._steps += 1
            self._note(error, self._where())
            raise
        if not isinstance(result, tuple) or len(result) != 5:
            raise EnvApiError(
                f"{self._method('step')} returned {_described(result)}, expected 5 values: write {_STEP}. "
                "`done` of Gym is `terminated or truncated`; a time limit is `truncated`"
            )
        observation, reward, terminated, truncated, info = result
        self._steps += 1
        self._was_stepped = True
        if type(reward) is not float or not -math.inf < reward < math.inf:
            reward = self._number(reward)
        if type(terminated) is not bool:
            terminated = self._bool(terminated, "terminated")
        if type(truncated) is not bool:
            truncated = self._bool(truncated, "truncated")
        if not isinstance(info, dict):
            raise EnvApiError(f"{self._where()} returned {_described(info)} as info: write {_STEP}")
        observation = self._check(observation, self._where())
        if self._steps >= self.limit and not terminated:
            truncated = True
        return observation, reward, terminated, truncated, info

    def _note(self, error: Exception, where: str) -> None:
        _note(error, f"raised by {where} of the real environment {self._config.env_id}")

    def _where(self) -> str:
        """The last call, for errors, with the seed that repeats it."""
        if not self._steps:
            return f"reset(seed={self._seed})"
        seed = "" if self._seed is None else f" (reset seed {self._seed})"
        return f"step() number {self._steps} of the episode{seed}"

    def _method(self, name: str) -> str:
        return f"{name}() of {type(self.env.unwrapped).__name__}"

    def _number(self, reward: Any) -> float:
        """A reward of another type as a finite float."""
        array = None if reward is None or isinstance(reward, str | bytes) else np.asarray(reward)
        if array is None or array.shape != () or array.dtype.kind not in "biuf":
            raise EnvApiError(
                f"{self._where()} returned the reward {_described(reward)}, expected one number: return float(reward)"
            )
        if not np.isfinite(array):
            raise EnvApiError(
                f"{self._where()} returned the reward {reward}, expected a finite number: repair or wrap the "
                "environment"
            )
        return float(array)

    def _bool(self, value: Any, name: str) -> bool:
        if isinstance(value, np.bool_) or (type(value) is int and value in (0, 1)):
            return bool(value)
        raise EnvApiError(
            f"{self._where()} returned {_described(value)} as `{name}`, expected True or False: write {_STEP}"
        )

    def _failed(self, method: str, error: BaseException) -> str:
        """Words for an error of the first reset or of the first step."""
        came = described_error(error)
        signature = _RESET if method == "reset" else _STEP
        old = self._old_signature() if method == "reset" else ""
        if old:
            return f"{old} ({came}): write {signature}"
        if "unpack" in str(error):
            return (
                f"{self._method(method)} returned another number of values than a wrapper or Gymnasium expects "
                f"({came}): write {signature}"
            )
        text = f"the first {method}() failed ({came})"
        if method == "reset":
            text += (
                f". The options were {shortened(self._config.reset_options)}: if the environment needs others, give "
                "EnvConfig.reset_options (--reset-options JSON)"
            )
        if self._config.wrappers:
            used = ", ".join(
                f"{each.name} with the arguments {shortened(each.kwargs)}"
                for each in self._config.wrappers
            )
            text += f". Check the arguments of the wrappers: {used}"
        return f"{text}. Expected: {signature}"

    def _old_signature(self) -> str:
        """What the signature of a reset lacks, in words, innermost layer first; "" if all are complete."""
        for layer in reversed(list(layers(self.env))):
            try:
                parameters = inspect.signature(layer.reset).parameters
            except (TypeError, ValueError):
                continue
            any_keyword = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
            missing = [name for name in ("seed", "options") if name not in parameters]
            if missing and not any_keyword:
                return f"reset() of {type(layer).__name__} does not take {' and '.join(missing)}"
        return ""


def own_limit(env: gym.Env) -> int | None:
    """Time limit of an environment in steps: the smallest one of its spec and its wrappers; None: none."""
    limits = [None if env.spec is None else env.spec.max_episode_steps]
    limits += [
        getattr(layer, "_max_episode_steps", None)
        for layer in layers(env)
        if isinstance(layer, gym.wrappers.TimeLimit)
    ]
    return min((int(limit) for limit in limits if limit is not None and limit > 0), default=None)


def smaller(*limits: int | None) -> int | None:
    """The smallest time limit; None: none is known."""
    return min((limit for limit in limits if limit is not None), default=None)


def check_limit(real: EnvConfig, limit: int | None, env: gym.Env | None = None) -> int:
    """Return the time limit. Raises StageError if there is none: an episode could take real steps without an end.

    env: the environment, whose attributes may name a limit.
    """
    if limit is not None:
        return limit
    own = None if env is None else env.unwrapped
    found = [
        f"{name}={getattr(own, name)}"
        for name in _LIMIT_NAMES
        if isinstance(getattr(own, name, None), int)
    ]
    hint = f" The environment has the attribute {', '.join(found)}." if found else ""
    raise StageError(
        f"{real.env_id} has no time limit, so an episode may never end. Pass the time limit in steps: --horizon STEPS, "
        f"EnvConfig(..., horizon=STEPS), or max_episode_steps where the id is registered.{hint}"
    )


def action_check(space: spaces.Space[Any]) -> Callable[[Any], Any]:
    """Function that turns an action of any policy into what an environment expects.

    Discrete gives `int`, as a key of a dict needs it; other spaces give a new array of the type of the space, which the
    environment may keep or change. The function raises InvalidActionError.
    """
    if isinstance(space, spaces.Discrete):
        return _DiscreteAction(space)
    return _ArrayAction(space)


class _DiscreteAction:
    def __init__(self, space: spaces.Discrete) -> None:
        self._space = space
        self._first, self._after = int(space.start), int(space.start) + int(space.n)

    def __call__(self, action: Any) -> int:
        if type(action) is not int:
            array = np.asarray(action)
            if array.shape != () or array.dtype.kind not in "biu":
                raise InvalidActionError(
                    f"invalid action {_described(action)} for {self._space}: expected one integer. No step was taken"
                )
            action = int(array)
        if not self._first <= action < self._after:
            raise InvalidActionError(
                f"invalid action {action} for {self._space}: expected an integer in [{self._first}, "
                f"{self._after - 1}]. No step was taken"
            )
        return action


class _ArrayAction:
    def __init__(self, space: spaces.Space[Any]) -> None:
        self._space, self._shape = space, tuple(space.shape or ())
        self._dtype = np.dtype(space.dtype)
        self._binary = isinstance(space, spaces.MultiBinary)
        self._whole = self._binary or isinstance(space, spaces.MultiDiscrete)

    def __call__(self, action: Any) -> np.ndarray:
        array = np.asarray(action)
        if self._binary and array.dtype.kind == "f" and np.isin(array, (0.0, 1.0)).all():
            array = array.astype(self._dtype)  # Stable-Baselines3 returns these actions as float32
        if array.dtype.kind not in ("biu" if self._whole else "biuf") or array.shape != self._shape:
            raise InvalidActionError(
                f"invalid action {_described(action)} for {self._space}: expected an array of shape {self._shape} "
                f"and type {self._dtype}. No step was taken"
            )
        _check_finite(array)
        made = np.array(array, self._dtype)
        if self._whole and not self._space.contains(made):
            raise InvalidActionError(
                f"invalid action {_described(action)} for {self._space}: expected integers inside the space. No step "
                "was taken"
            )
        return made


def _check_finite(action: np.ndarray) -> None:
    if action.dtype.kind == "f" and not np.isfinite(action).all():
        raise InvalidActionError(
            f"the action {action.tolist()!s:.80} for the real environment has NaN or infinite values: no step was "
            "taken. The usual cause is a policy that diverged."
        )


def _described(value: Any) -> str:
    """A value with its type, for errors."""
    if isinstance(value, tuple):
        return f"{len(value)} values ({', '.join(type(each).__name__ for each in value)})"
    return f"{shortened(value)} ({type(value).__name__})"
