"""Hindsight experience replay (HER): replay of an episode as if its goal had been one that it has reached.

Source: Andrychowicz et al. 2017, arXiv:1707.01495.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gymnasium import spaces

from world_env.errors import NoGoalRewardError, SpaceMismatchError
from world_env.real.real_env import spec_of
from world_env.spec import EnvConfig
from world_env.twin.goals import GOAL_KEYS, known_compute_reward
from world_env.twin.twin import Twin
from world_env.types import JSON

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv


def check_hindsight(options: JSON, space: spaces.Space[Any], reward_fn: Any) -> None:
    """Check the training of an algorithm with HerReplayBuffer in a twin, before there is a twin.

    Raises SpaceMismatchError for observations without goals, NoGoalRewardError for rewards of no goals.
    """
    if _uses_hindsight(options):
        _check_goals(space)
        known_compute_reward(reward_fn)


def hindsight_options(world: Twin | EnvConfig, env: VecEnv, options: JSON) -> JSON:
    """Return the arguments of an algorithm with HerReplayBuffer that differ from `options`; none for other buffers.

    Raises SpaceMismatchError for observations without goals, NoGoalRewardError for a world without rewards of goals.
    """
    from stable_baselines3 import HerReplayBuffer

    if not _uses_hindsight(options):
        return {}
    _check_goals(env.observation_space)
    changed: JSON = {"replay_buffer_class": HerReplayBuffer}
    if isinstance(world, Twin):
        known_compute_reward(world.reward_fn)
    elif not env.has_attr("compute_reward"):
        raise NoGoalRewardError(
            f"HerReplayBuffer needs the rewards of other goals, but {world.env_id} has no method compute_reward("
            "achieved_goal, desired_goal, info): add it, or train without HerReplayBuffer"
        )
    horizon = (world.spec if isinstance(world, Twin) else spec_of(world)).horizon
    if horizon is not None and "learning_starts" not in options:
        # New goals come from whole episodes, so one must have ended before the first gradient step.
        changed["learning_starts"] = (horizon + 1) * env.num_envs
    return changed


def _uses_hindsight(options: JSON) -> bool:
    from stable_baselines3 import HerReplayBuffer

    return options.get("replay_buffer_class") in (HerReplayBuffer.__name__, HerReplayBuffer)


def _check_goals(space: spaces.Space[Any]) -> None:
    if not isinstance(space, spaces.Dict) or not set(GOAL_KEYS) <= set(space.spaces):
        raise SpaceMismatchError(
            f"HerReplayBuffer needs Dict observations with the keys {', '.join(GOAL_KEYS)}, but the observation space "
            f"is {space}"
        )
