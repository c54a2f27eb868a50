"""Methods of environments that some algorithms ask for beside `step`: rewards of goals and masks of actions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from world_env.envs.action_masks import DEFAULT_KEY, check_mask_key, masks_of
from world_env.twin.goals import ComputeReward, known_compute_reward

if TYPE_CHECKING:
    from world_env.simulation.simulator import Simulator


class ClientMethods:
    """Methods of the environments of a twin. action_mask_key: key of the observations that holds the action masks."""

    simulator: Simulator
    action_mask_key: str = DEFAULT_KEY

    @property
    def compute_reward(self) -> ComputeReward:
        """Function (achieved_goal, desired_goal, info) -> rewards that was given as `compute_reward`.

        Raises NoGoalRewardError, an AttributeError, without such a function: clients take an environment with this
        attribute for one with goals.
        """
        return known_compute_reward(self.simulator.twin.reward_fn)

    def _masks(self) -> np.ndarray:
        """Masks of all environments, (N, choices) bool."""
        spec = self.simulator.twin.spec
        check_mask_key(spec.observation_space, spec.action_space, self.action_mask_key)
        return masks_of(self.simulator.decoded_observation(), self.action_mask_key)
