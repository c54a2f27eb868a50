"""A twin as a Stable-Baselines3 `VecEnv` of parallel environments, without worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from world_env.bundled_twins import DEFAULT_TWIN
from world_env.envs.action_masks import DEFAULT_KEY
from world_env.envs.client_methods import ClientMethods
from world_env.envs.factory import Frames, open_simulator
from world_env.errors import InvalidOptionError, MissingExtraError, ResetNeededError
from world_env.simulation.simulator import ENDS, Simulator, Snapshot, StepResult
from world_env.spaces import row_of, stacked
from world_env.twin.goals import ComputeReward
from world_env.twin.twin import KnownFunction, Twin

try:
    from stable_baselines3.common.vec_env.base_vec_env import VecEnv
except ImportError as error:
    raise MissingExtraError(
        "WorldModelSB3VecEnv needs stable-baselines3, which is not installed: "
        'pip install "world-env[train]"'
    ) from error


class WorldModelSB3VecEnv(ClientMethods, VecEnv):
    """Learned simulator of `num_envs` parallel environments for Stable-Baselines3.

    **Description, action space, observation space, rewards, starting state, episode end.** As for WorldModelEnv.

    **Autoreset.** Environments whose episode has ended are reset in the same step. Their infos hold "end",
    "terminal_observation" and "TimeLimit.truncated", from which the algorithms bootstrap at truncations. Wrap in
    VecMonitor to record episode returns.

    **Arguments.**

    - twin, render_mode, device, max_episode_steps, reward_fn, termination_fn, compute_reward, action_mask_key,
      options: as for WorldModelEnv, except that the uncertainty is not computed by default. With `uncertainty=True`
      every info has "uncertainty"; with an `on_uncertain` rule alone, only the infos at the end of an episode have it.
    - num_envs: number of environments (default: 1).
    - seed: environment i gets the seed `seed` + i at the first reset (default None: a random seed).

    Other infos are empty dicts, which are reused at every step: copy them before you write to them.

    Raises InvalidOptionError for an unknown or wrong argument, and the errors of `Twin.load`. The import raises
    MissingExtraError if stable-baselines3 is not installed.
    """

    def __init__(
        self,
        twin: str | Path | Twin = DEFAULT_TWIN,
        num_envs: int = 1,
        *,
        seed: int | None = None,
        render_mode: str | None = None,
        device: torch.device | str = "cpu",
        max_episode_steps: int | None = None,
        reward_fn: KnownFunction | None = None,
        termination_fn: KnownFunction | None = None,
        compute_reward: ComputeReward | None = None,
        action_mask_key: str = DEFAULT_KEY,
        **options: Any,
    ) -> None:
        self.simulator: Simulator = open_simulator(
            twin,
            num_envs,
            options,
            render_mode=render_mode,
            device=device,
            max_episode_steps=max_episode_steps,
            reward_fn=reward_fn,
            termination_fn=termination_fn,
            compute_reward=compute_reward,
        )
        self.action_mask_key = action_mask_key
        self.render_mode = render_mode
        self._frames = Frames(self.simulator)
        self._actions: Any = None
        self._infos: list[dict[str, Any]] = [{} for _ in range(self.simulator.num_rows)]
        # One dict per environment and step is expensive: an `on_uncertain` rule alone reports at the end of episodes.
        self._reports_uncertainty = bool(options.get("uncertainty"))
        super().__init__(
            self.simulator.num_rows, self.simulator.view.space, self.twin.spec.action_space
        )
        if seed is not None:
            self.seed(seed)

    @property
    def twin(self) -> Twin:
        """The twin that these environments simulate."""
        return self.simulator.twin

    def reset(self) -> Any:
        """Start new episodes in all environments and return the observations, (N, ...).

        `seed()` and `set_options()` take effect at this call.
        """
        seeds = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        options = self._batched_options()
        observation = self.simulator.reset(seed=seeds, options=options)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return observation

    def step_async(self, actions: Any) -> None:
        """Store actions (N, ...) for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step and return (observations, rewards (N,) float32, dones (N,) bool, infos).

        The observation of an environment whose episode has ended is that of its reset.
        Raises ResetNeededError before the first reset or without `step_async`.
        """
        if self._actions is None:
            raise ResetNeededError(
                "step_wait() called without actions: call step_async(actions) first"
            )
        actions, self._actions = self._actions, None
        result = self.simulator.step(actions)
        observation, dones = result.observation, result.end != 0
        # New dicts for thousands of environments would cost more than the rest of this method.
        infos = self._infos.copy()
        if self._reports_uncertainty and result.uncertainty is not None:
            infos = [{"uncertainty": value} for value in result.uncertainty.tolist()]
        if result.extras:
            for name, value in result.scalars().items():
                infos = [
                    {**info, name: each} for info, each in zip(infos, value.tolist(), strict=True)
                ]
        if dones.any():
            _write_ends(infos, result)
            observation = self.simulator.reset(dones)
        return observation, result.reward, dones, infos

    def close(self) -> None:
        """Close the renderer. Can be called more than once."""
        self._frames.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return one RGB frame per environment, (H, W, 3) uint8; None each if `render_mode` is None."""
        if self.render_mode is None:
            return [None] * self.num_envs
        return self._frames.of_all()

    def action_masks(self) -> np.ndarray:
        """Return masks of valid actions, (N, choices) bool. Raises SpaceMismatchError without `action_mask_key`."""
        return self._masks()

    # -- attributes and methods for algorithms and wrappers ------------------------------------------------------

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute, once per selected environment."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute, which all environments share.

        Raises InvalidOptionError unless all environments are selected.
        """
        if len(set(self._get_indices(indices))) != self.num_envs:
            raise InvalidOptionError(
                f"environments share their attributes: set {attr_name!r} for all {self.num_envs} environments, "
                f"not for indices={indices}"
            )
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method once, on the simulator of all environments; return its result per selected environment."""
        if method_name == "render":
            images = self.get_images()
            return [images[row] for row in self._get_indices(indices)]
        value = getattr(self, method_name)(*method_args, **method_kwargs)
        if method_name == "action_masks":
            return [value[row] for row in self._get_indices(indices)]
        return [value for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Return False per selected environment: single environments are not wrapped."""
        return [False for _ in self._get_indices(indices)]

    # -- snapshots -----------------------------------------------------------------------------------------------

    def snapshot(self, rows: Any = None) -> Snapshot:
        """Copy the complete state of environments, by (N,) bool mask or indices; None: all. See `restore`."""
        return self.simulator.snapshot(rows)

    def restore(self, snapshot: Snapshot, rows: Any = None, *, fresh_noise: bool = False) -> Any:
        """Set environments (mask or indices; None: all) to a snapshot; return all observations, (N, ...).

        fresh_noise: do not restore the noise, so that the same state gets a different future.
        """
        self.simulator.restore(snapshot, rows, fresh_noise=fresh_noise)
        return self.simulator.observe()

    def fork(self, rows: Any = None, n: int = 1, *, seed: int | None = None) -> Simulator:
        """Return a Simulator with `n` copies of each selected environment and independent noise."""
        return self.simulator.fork(rows, n, seed=seed)

    # -- details -------------------------------------------------------------------------------------------------

    def _batched_options(self) -> dict[str, Any] | None:
        """Combine SB3's dicts of options, one per environment, into the options of one batched reset.

        Raises InvalidOptionError unless all dicts have the same keys, "observation", "conditioning" or both.
        """
        if not any(self._options):
            return None
        if any(
            not isinstance(options, dict)
            or not set(options) <= {"observation", "conditioning"}
            or options.keys() != self._options[0].keys()
            for options in self._options
        ):
            raise InvalidOptionError(
                "set_options() takes {'observation': ...}, {'conditioning': ...} or both, the same for every "
                f"environment, got {self._options!r:.80}; for snapshots use restore(), for contexts WorldModelVectorEnv"
            )
        return stacked(self._options)  # type: ignore[no-any-return]


def _write_ends(infos: list[dict[str, Any]], result: StepResult) -> None:
    """Write the infos that SB3 expects for environments whose episode has ended."""
    for row in np.flatnonzero(result.end).tolist():
        infos[row] = {
            **{name: value[row].item() for name, value in result.scalars().items()},
            "end": ENDS[result.end[row]],
            "terminal_observation": row_of(result.observation, row),
            "TimeLimit.truncated": bool(result.truncated[row]),
        }
        if result.uncertainty is not None:
            infos[row]["uncertainty"] = float(result.uncertainty[row])
