"""Episodes of the bundled twin that every library trains in, and their mean length."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

import world_env

ENV_ID = "world_env:WorldModel/CartPole-v0"
"""Id with the module prefix: workers of other processes import the package from it."""
NUM_ENVS = 16
RANDOM_LENGTH = 23.0
"""Mean episode length of random actions in steps, measured by `test_random_actions`."""
LEARNED_LENGTH = 4 * RANDOM_LENGTH
"""Mean episode length that a policy must exceed after training."""


def mean_length(act: Callable[[np.ndarray], Any], episodes: int = 32, seed: int = 1_000) -> float:
    """Mean length in steps of one episode per environment; every reward is 1. act: observations (N, 4) -> (N,)."""
    envs = world_env.WorldModelVectorEnv("cartpole", episodes, autoreset_mode="SAME_STEP")
    observation, _ = envs.reset(seed=seed)
    lengths, running = np.zeros(episodes), np.ones(episodes, bool)
    while running.any():
        actions = np.asarray(act(observation)).reshape(episodes).astype(np.int64)
        observation, rewards, terminated, truncated, infos = envs.step(actions)
        lengths += running * rewards
        ended = terminated | truncated
        if ended.any():
            kinds = infos["final_info"]["end"][ended]
            expected = np.where(terminated[ended], 1, 2)
            np.testing.assert_array_equal(kinds, expected)
        running &= ~ended
    assert lengths.max() <= 500
    return float(lengths.mean())


def make() -> gym.Env[Any, Any]:
    return gym.make(ENV_ID)
