"""Rewards of environments with goals: `compute_reward(achieved_goal, desired_goal, info)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from world_env.errors import KnownFunctionError, NoGoalRewardError

ComputeReward = Callable[[Any, Any, Any], Any]
"""(achieved_goal (B, ...), desired_goal (B, ...), info) -> (B,) rewards; info is a list of B dicts, or one dict."""
GOAL_KEYS = ("observation", "achieved_goal", "desired_goal")
"""Keys of an observation with goals, as in Gymnasium-Robotics."""


@dataclass(frozen=True)
class GoalReward:
    """Known reward function that depends on the goals of the next observation only.

    Pass it as `reward_fn`. The environments of the twin then have the method `compute_reward`, with which hindsight
    experience replay (HER) computes the rewards of other goals.

    compute_reward: batched function (achieved_goal (B, ...), desired_goal (B, ...), info) -> (B,), on numpy arrays.
        `info` is a list of dicts: a twin has empty ones.
    """

    compute_reward: ComputeReward

    def __call__(self, observation: Any, action: Any, next_observation: Any) -> np.ndarray:
        """Return the rewards (B,) of a step. Raises KnownFunctionError for observations without goals."""
        if not isinstance(next_observation, dict) or not set(GOAL_KEYS[1:]) <= set(
            next_observation
        ):
            keys = sorted(next_observation) if isinstance(next_observation, dict) else "no keys"
            raise KnownFunctionError(
                f"GoalReward needs Dict observations with the keys {', '.join(GOAL_KEYS)}, got {keys}: pass a "
                "reward_fn (obs, action, next_obs) instead"
            )
        achieved, desired = (next_observation[key] for key in GOAL_KEYS[1:])
        return np.asarray(self.compute_reward(achieved, desired, [{} for _ in achieved]))


def known_compute_reward(reward_fn: Any) -> ComputeReward:
    """Return the function of goals in the known reward function of a twin. Raises NoGoalRewardError without one."""
    if isinstance(reward_fn, GoalReward):
        return reward_fn.compute_reward
    raise NoGoalRewardError(
        "this twin has no compute_reward: its rewards are "
        + ("predicted by the model" if reward_fn is None else "those of a reward_fn without goals")
        + ". Pass the function of the real environment, compute_reward=FUNCTION (achieved_goal, desired_goal, info), "
        "to the environment of the twin, or reward_fn=world_env.twin.GoalReward(FUNCTION) to fit, Twin.load or build"
    )
