"""TorchRL makes the ids, steps them in every way that it knows, and trains with its PPO loss."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from episodes import ENV_ID, LEARNED_LENGTH, mean_length
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import GymEnv, GymWrapper
from torchrl.envs.utils import check_env_specs
from torchrl.modules import OneHotCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE


def check_rollout(played: Any, num_envs: int) -> None:
    """Episodes of (num_envs, steps): their lengths are their returns, and each ends once."""
    after = played["next"]
    done, reward = after["done"].reshape(num_envs, -1), after["reward"].reshape(num_envs, -1)
    assert done.any() and (reward == 1).all()
    assert (after["done"] == (after["terminated"] | after["truncated"])).all()
    shown = played["observation"].reshape(num_envs, -1, 4)
    reached = after["observation"].reshape(num_envs, -1, 4)
    assert reached.isfinite().all()
    running = ~done[:, :-1]
    torch.testing.assert_close(reached[:, :-1][running], shown[:, 1:][running])
    # After an end, a new episode begins near the middle; the last observation is far from it.
    assert shown[:, 1:][~running].abs().max() < 0.06
    assert (reached[done].abs().max(-1).values > 0.1).all()


def test_one_environment_by_its_id() -> None:
    env = GymEnv(ENV_ID)
    env.set_seed(0)
    check_env_specs(env)
    check_rollout(env.rollout(500, break_when_any_done=False), 1)
    env.close()


def test_environments_in_processes_by_their_id() -> None:
    env = GymEnv(ENV_ID, num_envs=2)
    env.set_seed(0)
    played = env.rollout(200, break_when_any_done=False)
    done, reward = played["next", "done"][..., 0], played["next", "reward"][..., 0]
    assert played.shape == (2, 200) and done.any()
    # Gymnasium's workers reset in the step after the end, which has no reward; TorchRL resets when all have ended.
    waited = (done & ~done.all(0))[:, :-1]
    assert ((reward[:, 1:] == 0) == waited).all()
    begun = played["next", "observation"][:, 1:][waited]
    assert begun.abs().max() < 0.06
    # TorchRL exchanges the observations of these two steps, and with them the infos: the end is in the second one.
    assert waited.any() and (played["end"][:, 1:][waited] == 1).all()
    assert (played["end"][:, 1:][~done[:, :-1]] == 0).all()
    env.close()


@pytest.mark.parametrize("mode", ["SAME_STEP", "DISABLED"])
def test_vector_environments(mode: str) -> None:
    env = GymWrapper(gym.make_vec(ENV_ID, num_envs=4, autoreset_mode=mode))
    env.set_seed(0)
    check_env_specs(env)
    check_rollout(env.rollout(200, break_when_any_done=False), 4)
    env.close()


def test_an_unknown_argument_is_a_type_error_in_pythons_words() -> None:
    for make in (gym.make, gym.make_vec):
        with pytest.raises(TypeError, match="got an unexpected keyword argument 'frameskip'"):
            make(ENV_ID, frameskip=4)


@pytest.mark.parametrize("made", ["id", "vector"])
def test_collector_and_ppo(made: str) -> None:
    torch.manual_seed(0)
    if made == "id":
        env, frames, total = GymEnv(ENV_ID), 1_000, 5_000
    else:
        envs = gym.make_vec(ENV_ID, num_envs=16, autoreset_mode="DISABLED")
        env, frames, total = GymWrapper(envs), 1_024, 8_192
    env.set_seed(0)

    def network(outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)
        )

    logits = network(2)
    actor = ProbabilisticActor(
        TensorDictModule(logits, in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        spec=env.action_spec,
        distribution_class=OneHotCategorical,
        return_log_prob=True,
    )
    critic = ValueOperator(network(1), in_keys=["observation"])
    advantage = GAE(gamma=0.98, lmbda=0.9, value_network=critic)
    loss_of = ClipPPOLoss(actor, critic, entropy_coeff=0.01, critic_coeff=0.25)
    optimizer = torch.optim.Adam(loss_of.parameters(), lr=2e-3)
    collector = Collector(env, actor, frames_per_batch=frames, total_frames=total)
    seen = 0
    for batch in collector:
        seen += batch.numel()
        assert (batch["next", "reward"] == 1).all()
        with torch.no_grad():
            advantage(batch)
        flat = batch.reshape(-1)
        for _ in range(8):
            for index in torch.randperm(len(flat)).split(256):
                losses = loss_of(flat[index])
                loss = sum(losses[f"loss_{part}"] for part in ("objective", "critic", "entropy"))
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(loss_of.parameters(), 0.5)
                optimizer.step()
    collector.shutdown()
    assert seen == total
    with torch.no_grad():
        length = mean_length(lambda shown: np.asarray(logits(torch.as_tensor(shown)).argmax(-1)))
    assert length > LEARNED_LENGTH
