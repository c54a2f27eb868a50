"""RLlib trains PPO in twins: environments made one by one, and by one call. It needs its own gymnasium."""

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import pytest
import ray
import torch
from episodes import ENV_ID, LEARNED_LENGTH, mean_length
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

import world_env


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.parametrize("mode", ["vector_entry_point", "sync"])
def test_ppo(mode: str) -> None:
    config = (
        PPOConfig()
        .environment(ENV_ID)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=8, gym_env_vectorize_mode=mode)
        .learners(num_learners=0, num_gpus_per_learner=0)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64, 64], vf_share_layers=False))
        .training(
            train_batch_size_per_learner=1_024,
            minibatch_size=256,
            num_epochs=8,
            lr=2e-3,
            gamma=0.98,
            lambda_=0.9,
            vf_loss_coeff=0.25,
        )
        .debugging(seed=0)
    )
    algorithm = config.build_algo()
    envs: Any = algorithm.env_runner.env.unwrapped
    if mode == "vector_entry_point":
        assert isinstance(envs, world_env.WorldModelVectorEnv)
        assert envs.metadata["autoreset_mode"] is gym.vector.AutoresetMode.NEXT_STEP
    else:
        assert isinstance(envs, gym.vector.SyncVectorEnv)
    steps = 0
    for _ in range(6):
        results = algorithm.train()["env_runners"]
        steps += results["num_env_steps_sampled"]
        # Of windows that differ by some episodes, here as in the real environment.
        lengths, returns = results["episode_len_mean"], results["episode_return_mean"]
        assert lengths == pytest.approx(returns, rel=0.1) and 8 <= lengths <= 500
    assert steps >= 6 * 1_024
    module = algorithm.get_module()
    with torch.no_grad():
        length = mean_length(
            lambda shown: module.forward_inference({"obs": torch.as_tensor(shown)})[
                "action_dist_inputs"
            ].argmax(-1)
        )
    assert length > LEARNED_LENGTH
    algorithm.stop()
