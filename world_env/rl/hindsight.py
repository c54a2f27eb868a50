"""Hindsight experience replay (HER): replay of an episode as if its goal had been one that it has reached.

Source: Andrychowicz et al. 2017, arXiv:1707.01495.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gymnasium import spaces

from world_env.errors import SpaceMismatchError
from world_env.spec import EnvConfig
from world_env.twin.goals import GOAL_KEYS, known_compute_reward
from world_env.twin.twin import Twin
from world_env.types import JSON

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv


def hindsight_options(world: Twin | EnvConfig, env: VecEnv, options: JSON) -> JSON:
    """Return the arguments of an algorithm with HerReplayBuffer that differ from `options`; none for other buffers.

    Raises SpaceMismatchError for observations without goals, NoGoalRewardError for a twin without rewards of goals.
    """
    from stable_baselines3 import HerReplayBuffer

    if options.get("replay_buffer_class") not in (HerReplayBuffer.__name__, HerReplayBuffer):
        return {}
    space = env.observation_space
    if not isinstance(space, spaces.Dict) or not set(GOAL_KEYS) <= set(space.spaces):
        raise SpaceMismatchError(
            f"HerReplayBuffer needs Dict observations with the keys {', '.join(GOAL_KEYS)}, but the observation space "
            f"is {space}"
        )
    changed: JSON = {"replay_buffer_class": HerReplayBuffer}
    if isinstance(world, Twin):
        known_compute_reward(world.reward_fn)
        if world.spec.horizon is not None and "learning_starts" not in options:
            # New goals come from whole episodes, so one must have ended before the first gradient step.
            changed["learning_starts"] = (world.spec.horizon + 1) * env.num_envs
    return changed
