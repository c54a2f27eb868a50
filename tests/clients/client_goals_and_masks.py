"""HerReplayBuffer of Stable-Baselines3 and MaskablePPO of sb3-contrib train in twins with goals and with masks."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from exact_twins import goal_twin, masked_twin, reached
from sb3_contrib import MaskablePPO
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

from world_env import WorldModelSB3VecEnv, WorldModelVectorEnv
from world_env.envs import GymnasiumVectorToSB3

NUM_ENVS = 8
EPISODES = 64


def last_rewards(act: Callable[[Any], Any], twin: Any, **options: Any) -> np.ndarray:
    """Rewards (EPISODES,) of the last steps of one episode per environment. act: observations -> actions."""
    envs = WorldModelVectorEnv(twin, EPISODES, autoreset_mode="DISABLED", **options)
    observation, _ = envs.reset(seed=1_000)
    over = np.zeros(EPISODES, bool)
    # All episodes end together, at the time limit.
    while not over.any():
        observation, rewards, _, over, _ = envs.step(act(observation))
    assert over.all()
    return rewards


def test_hindsight_replay_reaches_goals() -> None:
    env = VecMonitor(WorldModelSB3VecEnv(goal_twin(), NUM_ENVS, compute_reward=reached))
    model = SAC(
        "MultiInputPolicy",
        env,
        replay_buffer_class=HerReplayBuffer,
        policy_kwargs={"net_arch": [32, 32]},
        learning_starts=160,
        learning_rate=3e-3,
        gamma=0.9,
        gradient_steps=2,
        seed=0,
        device="cpu",
    ).learn(2_400)
    rng = np.random.default_rng(0)

    def share(act: Callable[[Any], Any]) -> float:
        return float((last_rewards(act, goal_twin(), compute_reward=reached) == 0).mean())

    assert share(lambda shown: rng.uniform(-1, 1, (EPISODES, 1)).astype(np.float32)) < 0.25
    assert share(lambda shown: model.predict(shown, deterministic=True)[0]) > 0.4


def distance(observation: Any, action: Any, next_observation: Any) -> Any:
    """Known reward of the masked task: the distance from the middle, which half of the valid actions increase."""
    return np.abs(next_observation["place"][:, 0])


MASKED: dict[str, Any] = {"reward_fn": distance, "action_mask_key": "valid"}


def masked_envs(kind: str) -> VecEnv:
    if kind == "world_env":
        return WorldModelSB3VecEnv(masked_twin(), NUM_ENVS, **MASKED)
    options = {"twin": masked_twin(), **MASKED}
    if kind == "single":
        return DummyVecEnv([lambda: gym.make("WorldModel-v0", **options)])
    envs = gym.make_vec("WorldModel-v0", num_envs=NUM_ENVS, autoreset_mode="SAME_STEP", **options)
    return GymnasiumVectorToSB3(envs)


@pytest.mark.parametrize("kind", ["world_env", "gymnasium", "single"])
def test_maskable_ppo_learns_with_valid_actions_only(kind: str) -> None:
    env = VecMonitor(masked_envs(kind))
    model = MaskablePPO(
        "MultiInputPolicy",
        env,
        n_steps=256 // env.num_envs,
        batch_size=64,
        n_epochs=5,
        learning_rate=5e-3,
        gamma=0.9,
        policy_kwargs={"net_arch": [32]},
        seed=0,
        device="cpu",
    ).learn(1_536)
    kept = model.rollout_buffer
    masks, actions = kept.action_masks.reshape(-1, 3), kept.actions.astype(int).reshape(-1, 1)
    # Two of three actions are valid in every state; the masks are those of the observations.
    assert (masks.sum(-1) == 2).all() and np.take_along_axis(masks, actions, 1).all()
    np.testing.assert_array_equal(masks, kept.observations["valid"].reshape(-1, 3))
    rng = np.random.default_rng(0)

    def mean(act: Callable[[Any], Any]) -> float:
        return float(last_rewards(act, masked_twin(), **MASKED).mean())

    assert mean(lambda shown: (shown["valid"] * rng.random((EPISODES, 3))).argmax(-1)) < 0.9
    learned = mean(
        lambda shown: model.predict(shown, action_masks=shown["valid"] > 0, deterministic=True)[0]
    )
    assert learned > 0.95
