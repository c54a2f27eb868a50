"""Any Gymnasium vector environment as a Stable-Baselines3 `VecEnv`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv

from world_env.errors import (
    InvalidActionError,
    InvalidOptionError,
    MissingExtraError,
    ResetNeededError,
)
from world_env.spaces import copied, row_of

try:
    from stable_baselines3.common.env_util import is_wrapped
    from stable_baselines3.common.vec_env.base_vec_env import VecEnv
except ImportError as error:
    raise MissingExtraError(
        "GymnasiumVectorToSB3 and WorldModelSB3VecEnv need stable-baselines3, which is not installed: "
        'pip install "world-env[train]"'
    ) from error

_OF_THE_END = ("final_obs", "_final_obs", "final_info", "_final_info")
"""Keys of the infos in the mode SAME_STEP that belong to the ended episodes."""
_STATISTICS = "episode"
"""Key of the episode statistics of Gymnasium and Stable-Baselines3. Gymnasium's vector wrapper writes it beside the
infos of the next episode."""


class GymnasiumVectorToSB3(VecEnv):
    """Stable-Baselines3 `VecEnv` that steps a `gymnasium.vector.VectorEnv`.

    **Autoreset.** The vector environment must reset in the same step (SAME_STEP), or not at all (DISABLED): then the
    adapter resets it with `options={"reset_mask": ...}`. At the end of an episode the observation is that of the reset,
    the infos hold "terminal_observation" and "TimeLimit.truncated", and `reset_infos` the infos of the reset.

    **Infos** are split into one dict per environment, by the masks `_key`. Rewards are new float32 arrays.

    **Attributes and methods** of the environments: `get_attr`, `set_attr` and `env_method` read, set and call those of
    the single environments. AsyncVectorEnv calls a method in all workers, and shuts a worker down in which a method or
    an attribute is missing. A vector environment without single environments (no `get_attr`) is used itself.

    **Arguments.**

    - vector_env: the vector environment, with its wrappers. `close()` closes it.

    Raises InvalidOptionError for a vector environment in the mode NEXT_STEP, or without a mode. The import raises
    MissingExtraError if stable-baselines3 is not installed.
    """

    def __init__(self, vector_env: VectorEnv[Any, Any, Any]) -> None:
        self._mode = _checked_mode(vector_env)
        self.vector_env = vector_env
        self._actions: Any = None
        super().__init__(
            vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.vector_env!r})"

    # -- episodes ------------------------------------------------------------------------------------------------

    def reset(self) -> Any:
        """Start new episodes in all environments and return the observations, (N, ...).

        `seed()` and `set_options()` take effect at this call.
        """
        seeds: Any = self._pending_seeds()
        observation, infos = self.vector_env.reset(seed=seeds, options=self._pending_options())
        self._reset_seeds()
        self._reset_options()
        self._actions = None
        self.reset_infos = infos_per_env(infos, self.num_envs)
        return copied_observation(observation)

    def step_async(self, actions: Any) -> None:
        """Store actions (N, ...) for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step and return (observations, rewards (N,) float32, dones (N,) bool, infos).

        The observation of an environment whose episode has ended is that of its reset.
        Raises ResetNeededError without `step_async`, InvalidActionError for a wrong number of actions or for fractions
        where integers are expected.
        """
        observation, rewards, terminated, truncated, told = self.vector_env.step(
            _checked_actions(self._take_actions(), self.action_space, self.num_envs)
        )
        dones = np.logical_or(terminated, truncated)
        infos = infos_per_env(
            {key: value for key, value in told.items() if key not in _OF_THE_END}, self.num_envs
        )
        if dones.any():
            if self._mode is AutoresetMode.SAME_STEP:
                ended = self._split_same_step(infos, told, dones)
            else:
                ended = {row: copied_observation(row_of(observation, row)) for row in _rows(dones)}
                observation, reset_told = self.vector_env.reset(
                    options={"reset_mask": dones.copy()}
                )
                after = infos_per_env(reset_told, self.num_envs)
                for row in ended:
                    self.reset_infos[row] = after[row]
            for row, terminal in ended.items():
                infos[row]["terminal_observation"] = terminal
                infos[row]["TimeLimit.truncated"] = bool(truncated[row] and not terminated[row])
        # The vector environment may use its arrays again; Stable-Baselines3 keeps the last observation and changes
        # rewards in place.
        return copied_observation(observation), np.array(rewards, np.float32), dones, infos

    def close(self) -> None:
        """Close the vector environment. Can be called more than once."""
        self.vector_env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return one RGB frame per environment, (H, W, 3) uint8; None each if `render_mode` is None."""
        frames: Any = None if self.render_mode is None else self.vector_env.render()
        return [None] * self.num_envs if frames is None else list(frames)

    # -- attributes and methods for algorithms and wrappers ------------------------------------------------------

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute, once per selected environment."""
        rows, single = self._get_indices(indices), self._single_envs()
        if single is not None:
            return [single[row].get_wrapper_attr(attr_name) for row in rows]
        base = self.vector_env.unwrapped
        if hasattr(base, "get_attr"):
            values = base.get_attr(attr_name)
            return [values[row] for row in rows]
        if attr_name in ("observation_space", "action_space"):
            attr_name = f"single_{attr_name}"
        value = getattr(_owner(self.vector_env, attr_name), attr_name)
        return [value for _ in rows]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the selected environments.

        Raises InvalidOptionError if the environments share their attributes and not all of them are selected.
        """
        rows, single = list(self._get_indices(indices)), self._single_envs()
        base = self.vector_env.unwrapped
        if single is not None:
            for row in rows:
                single[row].set_wrapper_attr(attr_name, value)
        elif isinstance(base, AsyncVectorEnv):
            everywhere = len(set(rows)) == self.num_envs
            values = [None] * self.num_envs if everywhere else list(base.get_attr(attr_name))
            for row in rows:
                values[row] = value
            base.set_attr(attr_name, values)
        elif len(set(rows)) != self.num_envs:
            raise InvalidOptionError(
                f"environments share their attributes: set {attr_name!r} for all {self.num_envs} environments, "
                f"not for indices={indices}"
            )
        elif hasattr(base, "set_attr"):
            base.set_attr(attr_name, [value] * self.num_envs)
        else:
            setattr(_owner(self.vector_env, attr_name, base), attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the selected environments and return its result per environment.

        Environments without single environments are called once, all together.
        Raises InvalidOptionError for some environments of an AsyncVectorEnv.
        """
        rows, single = list(self._get_indices(indices)), self._single_envs()
        if single is not None:
            return [
                single[row].get_wrapper_attr(method_name)(*method_args, **method_kwargs)
                for row in rows
            ]
        if method_name == "render":
            images = self.get_images()
            return [images[row] for row in rows]
        base = self.vector_env.unwrapped
        if isinstance(base, AsyncVectorEnv) and len(set(rows)) != self.num_envs:
            raise InvalidOptionError(
                f"AsyncVectorEnv calls {method_name!r} in all {self.num_envs} environments, got indices={indices}: "
                "omit indices, or use SyncVectorEnv"
            )
        if hasattr(base, "call"):
            results = base.call(method_name, *method_args, **method_kwargs)
            return [results[row] for row in rows]
        owner = _owner(self.vector_env, method_name)
        result = getattr(owner, method_name)(*method_args, **method_kwargs)
        return [result for _ in rows]

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper], indices: Any = None
    ) -> list[bool]:
        """Return True per selected environment of this process that has the wrapper; False for all others."""
        rows, single = self._get_indices(indices), self._single_envs()
        return [single is not None and is_wrapped(single[row], wrapper_class) for row in rows]

    # -- details -------------------------------------------------------------------------------------------------

    def _single_envs(self) -> list[gymnasium.Env[Any, Any]] | None:
        """The environments of a SyncVectorEnv; None if they are in other processes, or do not exist."""
        envs = list(getattr(self.vector_env.unwrapped, "envs", ()))
        single = len(envs) == self.num_envs and all(isinstance(e, gymnasium.Env) for e in envs)
        return envs if single else None

    def _take_actions(self) -> Any:
        """Return the actions of `step_async`, once."""
        if self._actions is None:
            raise ResetNeededError(
                "step_wait() called without actions: call step_async(actions) first"
            )
        actions, self._actions = self._actions, None
        return actions

    def _pending_seeds(self) -> int | list[int | None] | None:
        """Seeds of the next reset. One number where it means the same, because not every environment takes a list."""
        seeds = list(self._seeds)
        first = seeds[0]
        if all(seed is None for seed in seeds):
            return None
        if first is not None and seeds == list(range(first, first + self.num_envs)):
            return first
        return seeds

    def _pending_options(self) -> dict[str, Any] | None:
        """Options of the next reset, which a vector environment takes once for all environments."""
        options = self._options
        if not any(options):
            return None
        if len(options) != self.num_envs or not all(
            each is options[0] or data_equivalence(each, options[0]) for each in options[1:]
        ):
            raise InvalidOptionError(
                "a vector environment takes the same reset options for all environments, got different ones: pass one "
                "dict to set_options()"
            )
        return dict(options[0])

    def _split_same_step(
        self, infos: list[dict[str, Any]], told: dict[str, Any], dones: np.ndarray
    ) -> dict[int, Any]:
        """Move the infos of resets to `reset_infos`, and return the last observations of ended episodes by row."""
        if "final_obs" not in told:
            raise InvalidOptionError(
                f"{self.vector_env!r} ended episodes in {dones.sum()} environments without infos['final_obs'], which "
                "the autoreset mode SAME_STEP promises: correct the environment, or use the mode DISABLED"
            )
        ended = {}
        last = infos_per_env(told.get("final_info", {}), self.num_envs)
        for row in _rows(dones):
            self.reset_infos[row], infos[row] = infos[row], last[row]
            if _STATISTICS in self.reset_infos[row]:
                infos[row].setdefault(_STATISTICS, self.reset_infos[row].pop(_STATISTICS))
            ended[row] = copied_observation(row_of(told["final_obs"], row))
        return ended


def infos_per_env(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Split the infos of a Gymnasium vector environment into one dict per environment.

    A value belongs to the environments of its mask `_key`; without a mask, to all of them. Values are arrays (N, ...),
    lists of N values, or dicts of these; anything else is one value for all environments.
    """
    split: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for key, value in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        mask = infos.get(f"_{key}")
        parts = _parts(value, num_envs)
        for row in range(num_envs) if mask is None else _rows(mask):
            split[row][key] = parts[row]
    return split


def _parts(value: Any, num_envs: int) -> Sequence[Any]:
    if isinstance(value, dict):
        return infos_per_env(value, num_envs)
    if isinstance(value, np.ndarray) and value.shape[:1] == (num_envs,):
        # Python numbers, as single environments report them.
        return value.tolist() if value.ndim == 1 else list(value.copy())
    if isinstance(value, list | tuple) and len(value) == num_envs:
        return value
    return [value] * num_envs


def copied_observation(observation: Any) -> Any:
    """Copy an observation, or a batch of them: an array, a number, or a dict or tuple of these."""
    if isinstance(observation, tuple):
        return tuple(copied_observation(part) for part in observation)
    if isinstance(observation, dict):
        return {key: copied_observation(part) for key, part in observation.items()}
    return copied(observation)


def _rows(mask: Any) -> list[int]:
    rows: list[int] = np.flatnonzero(mask).tolist()
    return rows


def _checked_actions(actions: Any, space: spaces.Space[Any], num_envs: int) -> Any:
    """Convert actions to an array (N, ...), with integers where the space has integers."""
    if isinstance(space, spaces.Tuple | spaces.Dict):
        return actions
    array = np.asarray(actions)
    if array.shape[:1] != (num_envs,):
        raise InvalidActionError(
            f"actions have the shape {array.shape}, expected ({num_envs}, ...), one per environment"
        )
    whole = space.dtype is not None and np.issubdtype(space.dtype, np.integer)
    if whole and array.dtype.kind not in "iub":
        raise InvalidActionError(
            f"actions have the dtype {array.dtype}, expected integers: {space}"
        )
    return array


def _owner(vector_env: Any, name: str, default: Any = None) -> Any:
    """The outermost vector wrapper, or the vector environment, that has an attribute."""
    env = vector_env
    while True:
        if hasattr(env, name):
            return env
        if not hasattr(env, "env"):
            break
        env = env.env
    if default is not None:
        return default
    raise AttributeError(f"{vector_env!r} has no attribute {name!r}")


def _checked_mode(vector_env: Any) -> AutoresetMode:
    """Return SAME_STEP or DISABLED. Raises InvalidOptionError, with the call that makes such an environment."""
    if not isinstance(vector_env, VectorEnv):
        raise InvalidOptionError(
            f"vector_env is a {type(vector_env).__name__}, expected a gymnasium.vector.VectorEnv, for example "
            'gymnasium.make_vec(ID, num_envs=8, vectorization_mode="sync", '
            "vector_kwargs={'autoreset_mode': gymnasium.vector.AutoresetMode.SAME_STEP})"
        )
    mode = (vector_env.metadata or {}).get("autoreset_mode")
    if mode in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
        return AutoresetMode(mode)
    name = "no autoreset mode in its metadata" if mode is None else f"the autoreset mode {mode}"
    spec = vector_env.spec
    env_id = "ID" if spec is None else spec.id
    base = vector_env.unwrapped
    if type(base).__module__.startswith("world_env."):
        how = f'gymnasium.make_vec("{env_id}", num_envs={vector_env.num_envs}, autoreset_mode="SAME_STEP")'
    else:
        vectorized = "async" if isinstance(base, AsyncVectorEnv) else "sync"
        how = (
            f'gymnasium.make_vec("{env_id}", num_envs={vector_env.num_envs}, vectorization_mode="{vectorized}", '
            "vector_kwargs={'autoreset_mode': gymnasium.vector.AutoresetMode.SAME_STEP})"
        )
    raise InvalidOptionError(
        f"{vector_env!r} has {name}, but Stable-Baselines3 needs an environment that resets in the same step: use {how}"
    )
