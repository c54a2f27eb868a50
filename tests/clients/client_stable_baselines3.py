"""Stable-Baselines3, sb3-contrib and SBX train in twins."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sbx
import stable_baselines3
from episodes import ENV_ID, LEARNED_LENGTH, NUM_ENVS, RANDOM_LENGTH, make, mean_length
from sb3_contrib import TQC, TRPO, RecurrentPPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from world_env import WorldModelSB3VecEnv
from world_env.envs import GymnasiumVectorToSB3

PPO_OPTIONS: dict[str, Any] = {
    "n_steps": 64,
    "batch_size": 256,
    "learning_rate": 2e-3,
    "gamma": 0.98,
    "gae_lambda": 0.8,
    "device": "cpu",
    "seed": 0,
}


def test_random_actions() -> None:
    rng = np.random.default_rng(0)
    length = mean_length(lambda observation: rng.integers(0, 2, len(observation)), 512)
    assert length == pytest.approx(RANDOM_LENGTH, rel=0.1)


def vectorized() -> GymnasiumVectorToSB3:
    return GymnasiumVectorToSB3(gym.make_vec(ENV_ID, num_envs=NUM_ENVS, autoreset_mode="SAME_STEP"))


@pytest.mark.parametrize(
    ("library", "envs"),
    [(stable_baselines3, envs) for envs in ("world_env", "gymnasium", "single")]
    + [(sbx, "world_env")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_ppo(library: Any, envs: str) -> None:
    if envs == "world_env":
        env = VecMonitor(WorldModelSB3VecEnv("cartpole", NUM_ENVS))
    else:
        env = VecMonitor(vectorized() if envs == "gymnasium" else DummyVecEnv([make] * 4))
    steps = 4_000 if envs == "single" else 12_000
    model = library.PPO("MlpPolicy", env, **PPO_OPTIONS).learn(steps)
    assert {episode["l"] == episode["r"] for episode in model.ep_info_buffer} == {True}
    length = mean_length(lambda observation: model.predict(observation, deterministic=True)[0])
    assert length > LEARNED_LENGTH
    mean, _ = evaluate_policy(model, VecMonitor(WorldModelSB3VecEnv("cartpole", 8, seed=1_000)), 8)
    assert mean > LEARNED_LENGTH


def test_trpo() -> None:
    options = PPO_OPTIONS | {"learning_rate": 1e-3}
    model = TRPO("MlpPolicy", WorldModelSB3VecEnv("cartpole", NUM_ENVS), **options).learn(12_000)
    assert mean_length(lambda observation: model.predict(observation)[0]) > LEARNED_LENGTH


def test_recurrent_ppo() -> None:
    env = VecMonitor(WorldModelSB3VecEnv("cartpole", NUM_ENVS))
    small = {"lstm_hidden_size": 32, "net_arch": [32]}
    options = PPO_OPTIONS | {"n_epochs": 5, "policy_kwargs": small}
    model = RecurrentPPO("MlpLstmPolicy", env, **options).learn(12_000)
    lengths = [episode["l"] for episode in list(model.ep_info_buffer)[-30:]]
    assert np.mean(lengths) > 1.5 * RANDOM_LENGTH


def test_tqc_with_continuous_actions() -> None:
    env = VecMonitor(WorldModelSB3VecEnv("pendulum", 8, seed=0))
    model = TQC(
        "MlpPolicy",
        env,
        learning_starts=800,
        buffer_size=5_000,
        gradient_steps=1,
        policy_kwargs={"net_arch": [64, 64]},
        device="cpu",
        seed=0,
    )
    model.learn(3_200)
    assert model._n_updates >= 290
    # Every episode ends at the time limit, from which the values are bootstrapped.
    assert {episode["l"] for episode in model.ep_info_buffer} == {200}
    kept = model.replay_buffer
    ends = kept.dones[: kept.pos].astype(bool)
    assert ends.sum() == 8 * 2 and kept.timeouts[: kept.pos][ends].all()
    action = model.predict(env.reset())[0]
    assert action.shape == (8, 1) and env.action_space.contains(action[0])
