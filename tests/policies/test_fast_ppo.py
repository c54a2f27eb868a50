"""Our PPO computes what Stable-Baselines3's does, and its files are Stable-Baselines3's own."""

import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from oracle import oracle_twin
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger

from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
from world_env.policies.algorithms import algorithm_class
from world_env.policies.fast_sb3.ppo import PPO, covers
from world_env.policies.normalization import NormalizedFeatures
from world_env.policies.saved_policy import load_policy, save_policy

# Meant: the last batch of an epoch is a short one, of a single row once.
pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
SMALL: dict[str, Any] = {
    "n_steps": 25,
    "batch_size": 32,
    "n_epochs": 3,
    "learning_rate": 1e-3,
    "seed": 3,
    "device": "cpu",
}
ROLLOUTS = 3
NETWORK = {"activation_fn": torch.nn.ReLU, "net_arch": {"pi": [16], "vf": [24, 8]}}
NORMALIZED = {
    "features_extractor_class": NormalizedFeatures,
    "features_extractor_kwargs": {"mean": [0.1] * 3, "scale": [0.5] * 3},
}
COVERED: list[tuple[str, dict[str, Any]]] = [
    ("Pendulum-v1", {}),
    ("Pendulum-v1", {"ent_coef": 0.01, "vf_coef": 0.3, "max_grad_norm": 0.1}),
    ("Pendulum-v1", {"clip_range": 0.01, "clip_range_vf": 0.05}),
    ("Pendulum-v1", {"target_kl": 0.002}),
    ("Pendulum-v1", {"normalize_advantage": False}),
    ("Pendulum-v1", {"batch_size": 33}),
    ("Pendulum-v1", {"policy_kwargs": NETWORK}),
    ("Pendulum-v1", {"policy_kwargs": NORMALIZED}),
    ("Pendulum-v1", {"policy_kwargs": {"activation_fn": torch.nn.SiLU, "log_std_init": -1.0}}),
    ("Pendulum-v1", {"policy_kwargs": {"net_arch": []}}),
    ("Pendulum-v1", {"policy_kwargs": {"optimizer_kwargs": {"betas": (0.5, 0.9), "eps": 1e-7}}}),
    ("CartPole-v1", {}),
    ("CartPole-v1", {"ent_coef": 0.05, "clip_range_vf": 0.1, "clip_range": 0.05}),
    ("CartPole-v1", {"target_kl": 0.001, "policy_kwargs": NETWORK}),
]
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("Pendulum-v1", {"use_sde": True}),
    ("Pendulum-v1", {"policy_kwargs": {"activation_fn": torch.nn.ELU}}),
    ("Pendulum-v1", {"policy_kwargs": {"share_features_extractor": False}}),
    ("Pendulum-v1", {"policy_kwargs": {"optimizer_class": torch.optim.SGD}}),
    ("Pendulum-v1", {"policy_kwargs": {"optimizer_kwargs": {"weight_decay": 0.1}}}),
]


def make(kind: type[stable_baselines3.PPO], task: str, options: dict[str, Any]) -> Any:
    env = make_vec_env(task, 4, seed=5)
    return kind("MlpPolicy", env, **(SMALL | options))


def learned(kind: type[stable_baselines3.PPO], task: str, options: dict[str, Any]) -> Any:
    return make(kind, task, options).learn(ROLLOUTS * 100)


def tensors(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.policy.state_dict())


def moments(model: Any) -> list[torch.Tensor]:
    state = model.policy.optimizer.state_dict()["state"]
    return [value for held in state.values() for value in held.values()]


@pytest.mark.parametrize(("task", "options"), COVERED, ids=str)
def test_several_updates_end_where_those_of_stable_baselines3_do(
    task: str, options: dict[str, Any]
) -> None:
    stock, ours = learned(stable_baselines3.PPO, task, options), learned(PPO, task, options)
    assert covers(ours)
    assert ours._n_updates == stock._n_updates
    for name, tensor in tensors(stock).items():
        torch.testing.assert_close(tensors(ours)[name], tensor, atol=1e-5, rtol=1e-5)
    for ours_part, stock_part in zip(moments(ours), moments(stock), strict=True):
        torch.testing.assert_close(ours_part, stock_part, atol=1e-5, rtol=1e-3)


def test_an_update_stops_where_the_policy_has_moved_too_far() -> None:
    stopped = learned(PPO, "Pendulum-v1", {"target_kl": 1e-5})
    assert covers(stopped)
    assert stopped._n_updates == ROLLOUTS


@pytest.mark.parametrize(("task", "options"), OTHERS, ids=str)
def test_what_is_not_covered_learns_by_stable_baselines3s_own_update(
    task: str, options: dict[str, Any]
) -> None:
    stock, ours = learned(stable_baselines3.PPO, task, options), learned(PPO, task, options)
    assert not covers(ours)
    for name, tensor in tensors(stock).items():
        torch.testing.assert_close(tensors(ours)[name], tensor, atol=0.0, rtol=0.0)


@pytest.mark.parametrize("target_kl", [None, 0.002])
def test_the_logs_say_the_same(target_kl: float | None) -> None:
    options = {"target_kl": target_kl, "clip_range_vf": 0.1, "ent_coef": 0.01}
    logs = []
    for kind in (stable_baselines3.PPO, PPO):
        model = make(kind, "Pendulum-v1", options)
        # Without an output nothing is ever written out, and with it forgotten.
        model.set_logger(Logger(folder=None, output_formats=[]))
        model.learn(100, log_interval=1000)
        logs.append({k: v for k, v in model.logger.name_to_value.items() if k.startswith("train/")})
    stock, ours = logs
    assert set(ours) == set(stock) and "train/approx_kl" in ours
    for name, value in stock.items():
        assert ours[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name


def test_the_fallbacks_take_dict_and_image_observations() -> None:
    class Pictures(gym.Env[Any, Any]):
        observation_space = gym.spaces.Dict(
            {
                "picture": gym.spaces.Box(0, 255, (36, 36, 3), np.uint8),
                "speed": gym.spaces.Box(-1, 1, (2,), np.float32),
            }
        )
        action_space = gym.spaces.MultiDiscrete([2, 3])

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, action: Any) -> Any:
            return self.observation_space.sample(), 0.0, False, False, {}

    options = SMALL | {"n_steps": 8, "batch_size": 8, "n_epochs": 1}
    model = PPO("MultiInputPolicy", Pictures(), **options)
    assert not covers(model)
    assert model.learn(8).num_timesteps == 8


def test_a_saved_policy_is_one_of_stable_baselines3_and_goes_on_there(tmp_path: Path) -> None:
    model = learned(PPO, "Pendulum-v1", {})
    model.save(tmp_path / "policy.zip")
    code = (
        "import sys; from stable_baselines3 import PPO; "
        f"model = PPO.load({str(tmp_path / 'policy.zip')!r}, device='cpu'); "
        "assert type(model.policy).__module__.startswith('stable_baselines3'); "
        "sys.exit('training' in sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, check=True)
    finals = []
    for kind in (stable_baselines3.PPO, PPO):
        loaded = kind.load(tmp_path / "policy.zip", env=make_vec_env("Pendulum-v1", 4, seed=9))
        assert type(loaded) is kind
        loaded.set_random_seed(7)
        finals.append(loaded.learn(200, reset_num_timesteps=False))
    for name, tensor in tensors(finals[0]).items():
        torch.testing.assert_close(tensors(finals[1])[name], tensor, atol=1e-5, rtol=1e-5)


def test_the_folder_of_a_policy_names_the_algorithm_and_is_read_back(tmp_path: Path) -> None:
    assert algorithm_class("PPO") is PPO
    folder = save_policy(learned(PPO, "Pendulum-v1", {}), tmp_path / "policy", trained_in="real")
    assert '"algorithm": "PPO"' in (folder / "policy.json").read_text(encoding="utf-8")
    assert type(load_policy(folder)) is PPO


def test_a_twin_is_learned_in_with_the_cheap_update() -> None:
    env = WorldModelSB3VecEnv(oracle_twin("CartPole-v1"), 4, seed=0)
    model = PPO("MlpPolicy", env, **SMALL)
    assert covers(model.learn(100))


def test_the_log_says_once_that_the_fast_update_runs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="world_env"):
        learned(PPO, "Pendulum-v1", {})
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage().startswith("PPO: fast CPU update in use")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"use_sde": True}, "action distribution is a StateDependentNoiseDistribution"),
        ({"policy_kwargs": {"activation_fn": torch.nn.ELU}}, "layers ELU are not supported"),
        ({"policy_kwargs": {"share_features_extractor": False}}, "separate features extractors"),
        ({"policy_kwargs": {"optimizer_class": torch.optim.SGD}}, r"expected.*torch\.optim\.Adam"),
    ],
    ids=str,
)
def test_a_fallback_is_warned_of_once_with_its_reason(
    options: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="world_env"):
        learned(PPO, "Pendulum-v1", options)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert re.search(f"^PPO: fast CPU update not available.*{reason}", record.getMessage())
