"""Copies of environments with goals and with masks have the same future, rewards of goals and masks."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from exact_twins import goal_twin, masked_twin, reached

from world_env.envs.env import WorldModelEnv
from world_env.envs.gymnasium_vector_to_sb3 import GymnasiumVectorToSB3
from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
from world_env.envs.vector_env import WorldModelVectorEnv

N = 3
KINDS = ["single", "made", "vector", "sb3", "adapter"]
COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "cloudpickle": lambda env: cloudpickle.loads(cloudpickle.dumps(env)),
}


def made(kind: str, **options: Any) -> Any:
    if kind == "single":
        return WorldModelEnv(**options)
    if kind == "made":
        return gym.make("WorldModel-v0", **options)
    if kind == "sb3":
        return WorldModelSB3VecEnv(num_envs=N, **options)
    vector = WorldModelVectorEnv(num_envs=N, autoreset_mode="SAME_STEP", **options)
    return GymnasiumVectorToSB3(vector) if kind == "adapter" else vector


def method(env: Any, name: str) -> Any:
    """The method of an environment, found as algorithms find it."""
    if isinstance(env, gym.Env):
        return env.get_wrapper_attr(name)
    if isinstance(env, GymnasiumVectorToSB3):
        return lambda *arguments: env.env_method(name, *arguments)
    return getattr(env, name)


def assert_equal_futures(one: Any, other: Any, act: Callable[[], Any]) -> None:
    for _ in range(15):
        action = act()
        results = [env.step(action)[:2] for env in (one, other)]
        for key, value in results[0][0].items():
            np.testing.assert_array_equal(results[1][0][key], value)
        np.testing.assert_array_equal(results[1][1], results[0][1])
        if isinstance(one, gym.Env) and one.unwrapped.simulator.finished.any():
            one.reset(), other.reset()


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("kind", KINDS)
def test_goals(kind: str, copied: str) -> None:
    env = made(kind, twin=goal_twin(), compute_reward=reached)
    env.seed(3) if hasattr(env, "seed") else None
    env.reset()
    other = COPIES[copied](env)
    rng = np.random.default_rng(0)
    shape = (1,) if isinstance(env, gym.Env) else (N, 1)
    assert_equal_futures(env, other, lambda: rng.uniform(-1, 1, shape).astype(np.float32))
    goals = rng.uniform(-1, 1, (2, 5, 1))
    np.testing.assert_array_equal(
        method(other, "compute_reward")(*goals, {}), method(env, "compute_reward")(*goals, {})
    )


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("kind", KINDS)
def test_masks(kind: str, copied: str) -> None:
    env = made(kind, twin=masked_twin(), action_mask_key="valid")
    env.reset()
    other = COPIES[copied](env)
    rng = np.random.default_rng(0)
    shape = () if isinstance(env, gym.Env) else N
    assert_equal_futures(env, other, lambda: rng.integers(0, 3, shape))
    masks = np.array(method(other, "action_masks")())
    assert masks.dtype == bool and masks.shape[-1] == 3
    np.testing.assert_array_equal(masks, method(env, "action_masks")())
