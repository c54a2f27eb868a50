"""A twin as a Stable-Baselines3 `VecEnv` of parallel environments, without worker processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from world_env.bundled_twins import DEFAULT_TWIN
from world_env.envs.action_masks import DEFAULT_KEY
from world_env.envs.client_methods import ClientMethods
from world_env.envs.gymnasium_vector_to_sb3 import GymnasiumVectorToSB3
from world_env.envs.vector_env import WorldModelVectorEnv
from world_env.errors import InvalidOptionError
from world_env.simulation.simulator import Simulator, Snapshot, StepResult
from world_env.spaces import row_of, stacked
from world_env.twin.goals import ComputeReward
from world_env.twin.twin import KnownFunction, Twin


class WorldModelSB3VecEnv(ClientMethods, GymnasiumVectorToSB3):
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

    Raises TypeError for an unknown argument, InvalidOptionError for a wrong value, and the errors of `Twin.load`. The
    import raises MissingExtraError if stable-baselines3 is not installed.
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
        # Not computed by default: one dict per environment and step is expensive. For the same reason an `on_uncertain`
        # rule alone reports at the end of episodes.
        self._reports_uncertainty = bool(options.get("uncertainty"))
        vector_env = WorldModelVectorEnv(
            twin,
            num_envs,
            autoreset_mode=AutoresetMode.SAME_STEP,
            render_mode=render_mode,
            device=device,
            max_episode_steps=max_episode_steps,
            reward_fn=reward_fn,
            termination_fn=termination_fn,
            compute_reward=compute_reward,
            action_mask_key=action_mask_key,
            **{"uncertainty": None, **options},
        )
        self.action_mask_key = action_mask_key
        self.simulator: Simulator = vector_env.simulator
        self._infos: list[dict[str, Any]] = [{} for _ in range(vector_env.num_envs)]
        super().__init__(vector_env)
        if seed is not None:
            self.seed(seed)

    @property
    def twin(self) -> Twin:
        """The twin that these environments simulate."""
        return self.simulator.twin

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step and return (observations, rewards (N,) float32, dones (N,) bool, infos).

        The observation of an environment whose episode has ended is that of its reset.
        Raises ResetNeededError before the first reset or without `step_async`.
        """
        # The simulator's results are new arrays, with float32 rewards: this is the adapter's step without its copies.
        actions = self._take_actions()
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

    def action_masks(self) -> np.ndarray:
        """Return masks of valid actions, (N, choices) bool. Raises SpaceMismatchError without `action_mask_key`."""
        return self._masks()

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

    def _pending_options(self) -> dict[str, Any] | None:
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
            "end": int(result.end[row]),
            "terminal_observation": row_of(result.observation, row),
            "TimeLimit.truncated": bool(result.truncated[row]),
        }
        if result.uncertainty is not None:
            infos[row]["uncertainty"] = float(result.uncertainty[row])
