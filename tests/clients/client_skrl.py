"""skrl trains PPO in a single twin and in vector environments of both autoreset modes that it takes."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from episodes import ENV_ID, LEARNED_LENGTH, NUM_ENVS, mean_length
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer
from skrl.utils import set_seed
from torch import Tensor, nn


def network(outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)
    )


class Policy(CategoricalMixin, Model):
    def __init__(self, **spaces: Any) -> None:
        Model.__init__(self, **spaces, device="cpu")
        CategoricalMixin.__init__(self)
        self.net = network(2)

    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        return self.net(inputs["observations"]), {}


class Value(DeterministicMixin, Model):
    def __init__(self, **spaces: Any) -> None:
        Model.__init__(self, **spaces, device="cpu")
        DeterministicMixin.__init__(self)
        self.net = network(1)

    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        return self.net(inputs["observations"]), {}


@pytest.mark.parametrize("envs", ["single", "NEXT_STEP", "SAME_STEP"])
def test_ppo(envs: str, tmp_path: Path) -> None:
    set_seed(0)
    many = envs != "single"
    made: Any = gym.make(ENV_ID)
    if many:
        made = gym.make_vec(ENV_ID, num_envs=NUM_ENVS, autoreset_mode=envs)
    made.reset(seed=0)  # Later resets go on with this seed.
    env = wrap_env(made, wrapper="gymnasium")
    assert env.num_envs == (NUM_ENVS if many else 1)
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
    models = {"policy": Policy(**spaces), "value": Value(**spaces)}
    rollouts = 64 if many else 512
    cfg = PPO_CFG(
        rollouts=rollouts,
        learning_epochs=8,
        mini_batches=rollouts * env.num_envs // 256,
        learning_rate=2e-3,
        discount_factor=0.98,
        gae_lambda=0.9,
    )
    cfg.experiment.directory, cfg.experiment.write_interval = str(tmp_path), 0
    cfg.experiment.checkpoint_interval = 0
    memory = RandomMemory(memory_size=rollouts, num_envs=env.num_envs, device="cpu")
    agent = PPO(models=models, memory=memory, cfg=cfg, device="cpu", **spaces)
    # At the exit of the process, the trainer would log to a stream that pytest has closed.
    trainer = SequentialTrainer(
        env=env,
        agents=agent,
        cfg={
            "timesteps": rollouts * (10 if many else 8),
            "disable_progressbar": True,
            "headless": True,
            "close_environment_at_exit": False,
        },
    )
    trainer.train()
    with torch.no_grad():
        length = mean_length(lambda shown: models["policy"].net(torch.as_tensor(shown)).argmax(-1))
    assert length > LEARNED_LENGTH
