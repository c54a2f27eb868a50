"""Tianshou collects episodes in single and parallel twins, and trains with its PPO."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from episodes import ENV_ID, LEARNED_LENGTH, NUM_ENVS, make, mean_length
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, CollectStats, VectorReplayBuffer
from tianshou.env import DummyVectorEnv, SubprocVectorEnv
from tianshou.trainer import OnPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic


def agent() -> Any:
    torch.manual_seed(0)
    env = make()
    parts = [Net(state_shape=(4,), hidden_sizes=[64, 64], activation=torch.nn.Tanh) for _ in "ac"]
    actor = DiscreteActor(preprocess_net=parts[0], action_shape=2, softmax_output=False)
    policy = DiscreteActorPolicy(
        actor=actor, action_space=env.action_space, observation_space=env.observation_space
    )
    return PPO(
        policy=policy,
        critic=DiscreteCritic(preprocess_net=parts[1]),
        optim=AdamOptimizerFactory(lr=2e-3),
        gamma=0.98,
        gae_lambda=0.9,
        vf_coef=0.25,
    )


@pytest.mark.parametrize("envs", ["single", "dummy", "processes"])
def test_collected_episodes(envs: str) -> None:
    made: Any
    if envs == "single":
        made, number = make(), 1
    else:
        number = 2
        made = (DummyVectorEnv if envs == "dummy" else SubprocVectorEnv)([make] * number)
    buffer = VectorReplayBuffer(2_000, number)
    collector = Collector[CollectStats](agent(), made, buffer)
    collector.reset(gym_reset_kwargs={"seed": 0})
    stats = collector.collect(n_episode=6)
    assert stats.n_collected_episodes == 6
    np.testing.assert_array_equal(stats.returns, stats.lens)
    batch, _ = buffer.sample(0)
    assert batch.obs.shape == (len(buffer), 4) and batch.done.sum() >= 6
    # The ends, as numbers, came through as infos.
    assert (batch.info.end[batch.done] == 1).all() and (batch.info.end[~batch.done] == 0).all()
    made.close()


def test_ppo() -> None:
    algorithm = agent()
    buffer = VectorReplayBuffer(2_048, NUM_ENVS)
    envs = DummyVectorEnv([lambda: gym.make(ENV_ID) for _ in range(NUM_ENVS)])
    envs.seed(0)  # Later resets go on with these seeds.
    collector = Collector[CollectStats](algorithm, envs, buffer)
    algorithm.run_training(
        OnPolicyTrainerParams(
            training_collector=collector,
            max_epochs=1,
            epoch_num_steps=8_192,
            collection_step_num_env_steps=1_024,
            update_step_num_repetitions=8,
            batch_size=256,
        )
    )
    actor = algorithm.policy.actor
    with torch.no_grad():
        length = mean_length(lambda shown: actor(shown)[0].argmax(-1).numpy())
    assert length > LEARNED_LENGTH
