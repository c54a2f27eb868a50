"""A twin as a `gymnasium.vector.VectorEnv` of N environments, with one model call per step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from world_env.bundled_twins import DEFAULT_TWIN
from world_env.envs.action_masks import DEFAULT_KEY
from world_env.envs.client_methods import ClientMethods
from world_env.envs.factory import Frames, open_simulator
from world_env.errors import InvalidActionError, InvalidOptionError
from world_env.simulation.initial_states import reset_options
from world_env.simulation.simulator import Simulator, Snapshot, StepResult
from world_env.spaces import copied, row_of
from world_env.spec import SpecOfStrings
from world_env.twin.goals import ComputeReward
from world_env.twin.twin import KnownFunction, Twin


class WorldModelVectorEnv(SpecOfStrings, ClientMethods, VectorEnv[Any, Any, Any]):
    """Learned simulator of `num_envs` parallel environments, for `gymnasium.make_vec("WorldModel-v0", num_envs=N)`.

    **Description, action space, observation space, rewards, starting state, episode end.** As for WorldModelEnv, with a
    batch axis of `num_envs`. Infos are dicts of arrays; the mask `_key` is True for environments with a value in `key`.

    **Arguments.**

    - twin, render_mode, device, max_episode_steps, reward_fn, termination_fn, compute_reward, action_mask_key,
      options: as for WorldModelEnv.
    - num_envs: number of environments (default: 1).
    - autoreset_mode: a `gymnasium.vector.AutoresetMode` or its name (default: NEXT_STEP). NEXT_STEP: the step after the
      end of an episode ignores the action, resets the environment and has reward 0. SAME_STEP: the environment is reset
      at once, and its last observation and info are `infos["final_obs"]` and `infos["final_info"]`. DISABLED: call
      `reset(options={"reset_mask": mask})` for environments whose episode has ended.

    Raises TypeError for an unknown argument, InvalidOptionError for a wrong value, and the errors of `Twin.load`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 30}

    # On the class: Gymnasium calls close() in `__del__`, also if the constructor has failed.
    _frames: Frames | None = None

    def __init__(
        self,
        twin: str | Path | Twin = DEFAULT_TWIN,
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        device: torch.device | str = "cpu",
        max_episode_steps: int | None = None,
        reward_fn: KnownFunction | None = None,
        termination_fn: KnownFunction | None = None,
        compute_reward: ComputeReward | None = None,
        action_mask_key: str = DEFAULT_KEY,
        **options: Any,
    ) -> None:
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.simulator: Simulator = open_simulator(
            twin,
            num_envs,
            {"uncertainty": True, **options},
            render_mode=render_mode,
            device=device,
            max_episode_steps=max_episode_steps,
            reward_fn=reward_fn,
            termination_fn=termination_fn,
            compute_reward=compute_reward,
        )
        self.action_mask_key = action_mask_key
        self._frames = Frames(self.simulator)
        num_envs = self.simulator.num_rows
        self.num_envs, self.render_mode = num_envs, render_mode
        spec = self.simulator.twin.spec
        self.single_observation_space = self.simulator.view.space
        self.single_action_space = spec.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(spec.action_space, num_envs)
        seconds = spec.seconds_per_step
        fps = 30 if not seconds else max(1, round(1.0 / seconds))
        self.metadata = {
            **type(self).metadata,
            "render_fps": fps,
            "autoreset_mode": self.autoreset_mode,
        }

    @property
    def twin(self) -> Twin:
        """The twin that these environments simulate."""
        return self.simulator.twin

    # -- gymnasium -----------------------------------------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Start new episodes and return (observations, infos).

        seed: environment i gets `seed` + i, or the i-th of a list; None: the next episode of its current seed.
        options: "reset_mask" ((num_envs,) bool: reset only these environments), and at most one of "observation",
            "context" and "snapshot", batched over the environments that are reset. "conditioning" (name -> (n, ...)),
            batched likewise, also holds for later episodes of these environments.
        Raises InvalidOptionError for other options.
        """
        if seed is None or isinstance(seed, int | np.integer):
            super().reset(seed=None if seed is None else int(seed))
        options = reset_options(options)
        mask = self._reset_mask(options.pop("reset_mask", None))
        return self.simulator.reset(mask, seed=seed, options=options), {}

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step all environments; return (observations, rewards (N,) float64, terminated, truncated, infos).

        Raises ResetNeededError before the first reset and, in the mode DISABLED, if an episode is over.
        """
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            return self._step_next(actions)
        result = self.simulator.step(self._as_array(actions))
        infos = _infos(result, np.ones(self.num_envs, bool))
        observation = result.observation
        ended = result.end != 0
        if self.autoreset_mode is AutoresetMode.SAME_STEP and ended.any():
            final = _object_rows(observation, ended)
            observation = self.simulator.reset(ended)
            infos = _without_ended(infos, ended) | {
                "final_obs": final,
                "_final_obs": ended.copy(),
                "final_info": _infos(result, ended),
                "_final_info": ended.copy(),
            }
        return observation, _rewards(result), result.terminated, result.truncated, infos

    def _step_next(
        self, actions: Any
    ) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        resetting = self.simulator.finished.copy()  # the reset below changes it in place
        if not resetting.any():
            result = self.simulator.step(self._as_array(actions))
            observation = result.observation
        else:
            result = self.simulator.step(self._as_array(actions), ~resetting)
            observation = self.simulator.reset(resetting)
        infos = _infos(result, ~resetting)
        return observation, _rewards(result), result.terminated, result.truncated, infos

    def render(self) -> tuple[Any, ...] | None:
        """Return one RGB frame per environment, (H, W, 3) uint8; None if `render_mode` is None."""
        if self.render_mode is None or self._frames is None:
            return None
        return tuple(self._frames.of_all())

    def close_extras(self, **kwargs: Any) -> None:
        """Close the renderer."""
        if self._frames is not None:
            self._frames.close()

    def action_masks(self) -> np.ndarray:
        """Return masks of valid actions, (N, choices) bool. Raises SpaceMismatchError without `action_mask_key`."""
        return self._masks()

    # -- methods of SyncVectorEnv --------------------------------------------------------------------------------

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method, or get an attribute, of all environments at once; return one result per environment."""
        value = self.get_attr(name)[0]
        if callable(value):
            value = value(*args, **kwargs)
        if name == "render" and isinstance(value, tuple):
            return value
        if name == "action_masks":
            return tuple(value)
        return (value,) * self.num_envs

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute, once per environment."""
        if name == "spec":
            return (self.spec,) * self.num_envs
        if name in ("observation_space", "action_space"):
            name = f"single_{name}"
        return (getattr(self, name),) * self.num_envs

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute, which all environments share.

        values: one value, or a list or tuple of `num_envs` equal values. Raises InvalidOptionError otherwise.
        """
        if isinstance(values, list | tuple):
            if len(values) != self.num_envs or any(value != values[0] for value in values):
                raise InvalidOptionError(
                    f"environments share their attributes: {name!r} takes one value or {self.num_envs} equal values, "
                    f"got {len(values)} values"
                )
            values = values[0]
        setattr(self, name, values)

    # -- snapshots -----------------------------------------------------------------------------------------------

    def snapshot(self, rows: Any = None) -> Snapshot:
        """Copy the complete state of environments, by (N,) bool mask or indices; None: all. See `restore`."""
        return self.simulator.snapshot(rows)

    def restore(self, snapshot: Snapshot, rows: Any = None, *, fresh_noise: bool = False) -> Any:
        """Set environments (mask or indices; None: all) to a snapshot; return all observations, (N, ...).

        fresh_noise: do not restore the noise, so that the same state gets a different future.
        Environments whose episode had ended are reset according to the autoreset mode.
        """
        self.simulator.restore(snapshot, rows, fresh_noise=fresh_noise)
        return self.simulator.observe()

    def fork(self, rows: Any = None, n: int = 1, *, seed: int | None = None) -> Simulator:
        """Return a Simulator with `n` copies of each selected environment and independent noise."""
        return self.simulator.fork(rows, n, seed=seed)

    def __repr__(self) -> str:
        mode = self.autoreset_mode.name
        return (
            f"{type(self).__name__}({self.twin!r}, num_envs={self.num_envs}, autoreset_mode={mode})"
        )

    # -- details -------------------------------------------------------------------------------------------------

    def _reset_mask(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, bool)
        if (
            not isinstance(mask, np.ndarray)
            or mask.dtype != np.bool_
            or mask.shape != (self.num_envs,)
            or not mask.any()
        ):
            raise InvalidOptionError(
                f"options['reset_mask'] must be a bool array of shape ({self.num_envs},) with at least one True, got "
                f"{mask!r:.80}"
            )
        return mask

    def _as_array(self, actions: Any) -> np.ndarray:
        try:
            return np.asarray(actions)
        except ValueError as error:
            raise InvalidActionError(
                f"actions cannot be converted to an array of {self.action_space}: {error}"
            ) from error


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    for known in AutoresetMode:
        if mode is known or str(mode).replace("-", "_").lower() in (
            known.name.lower(),
            known.value.lower(),
        ):
            return known
    raise InvalidOptionError(
        f"autoreset_mode is {mode!r}, expected one of {', '.join(repr(m.name) for m in AutoresetMode)}"
    )


def _rewards(result: StepResult) -> np.ndarray:
    return result.reward.astype(np.float64)


def _infos(result: StepResult, rows: np.ndarray) -> dict[str, Any]:
    """Return infos of the environments in the mask `rows`, batched as in Gymnasium: arrays, each with a mask."""
    infos: dict[str, Any] = {
        "end": np.where(rows, result.end, 0).astype(np.int64),
        "_end": rows.copy(),
    }
    numbers = result.scalars() if result.extras else {}
    if result.uncertainty is not None:
        numbers["uncertainty"] = result.uncertainty
    for name, value in numbers.items():
        infos[name] = np.where(rows, value, 0.0).astype(np.float64)
        infos[f"_{name}"] = rows.copy()
    return infos


def _without_ended(infos: dict[str, Any], ended: np.ndarray) -> dict[str, Any]:
    """Mask out environments that were reset in this step: the infos of their last step are in `final_info`."""
    return {
        **infos,
        "end": np.where(ended, 0, infos["end"]),
        **{name: mask & ~ended for name, mask in infos.items() if name.startswith("_")},
    }


def _object_rows(observation: Any, rows: np.ndarray) -> np.ndarray:
    """Return an (N,) object array with the observations of the environments in the mask `rows`, None elsewhere."""
    out = np.full(len(rows), None, dtype=object)
    for row in np.flatnonzero(rows):
        out[row] = copied(row_of(observation, int(row)))
    return out
