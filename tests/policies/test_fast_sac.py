"""Our SAC computes what Stable-Baselines3's does, and its files are Stable-Baselines3's own."""

import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import stable_baselines3
import torch
from oracle import oracle_twin
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger

from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
from world_env.errors import StageError
from world_env.policies.algorithms import algorithm_class
from world_env.policies.fast_sb3.sac import SAC, covers
from world_env.policies.normalization import LayerNormReLU, NormalizedFeatures
from world_env.policies.saved_policy import load_policy, save_policy

SMALL: dict[str, Any] = {
    "learning_starts": 40,
    "batch_size": 32,
    "gradient_steps": 3,
    "learning_rate": 1e-3,
    "buffer_size": 1000,
    "policy_kwargs": {"net_arch": [24, 16]},
    "seed": 3,
    "device": "cpu",
}
NORMALIZED = {
    "features_extractor_class": NormalizedFeatures,
    "features_extractor_kwargs": {"mean": [0.1] * 3, "scale": [0.5] * 3},
}
COVERED: list[dict[str, Any]] = [
    {},
    {"ent_coef": 0.05},
    {"ent_coef": "auto_0.1", "target_entropy": -0.3},
    {"n_steps": 3},
    {"target_update_interval": 2, "tau": 0.05, "gamma": 0.9},
    {"policy_kwargs": {"net_arch": {"pi": [8], "qf": [24, 8]}, "n_critics": 3}},
    {"policy_kwargs": {"net_arch": [16], "activation_fn": torch.nn.SiLU}},
    {"policy_kwargs": {"net_arch": [16, 8], "activation_fn": LayerNormReLU}},
    {"policy_kwargs": {"net_arch": [16]} | NORMALIZED},
    {"policy_kwargs": {"net_arch": [16], "share_features_extractor": True}},
    {"policy_kwargs": {"net_arch": [16], "optimizer_kwargs": {"betas": (0.5, 0.9)}}},
]
OTHERS: list[dict[str, Any]] = [
    {"use_sde": True},
    {"policy_kwargs": {"net_arch": [16], "activation_fn": torch.nn.ELU}},
    {"policy_kwargs": {"net_arch": [16], "optimizer_class": torch.optim.SGD}},
]


def make(kind: type[stable_baselines3.SAC], options: dict[str, Any]) -> Any:
    env = make_vec_env("Pendulum-v1", 4, seed=5)
    return kind("MlpPolicy", env, **(SMALL | options))


def learned(kind: type[stable_baselines3.SAC], options: dict[str, Any]) -> Any:
    return make(kind, options).learn(120)


def tensors(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.policy.state_dict())


def moments(model: Any) -> list[torch.Tensor]:
    optimizers = [model.actor.optimizer, model.critic.optimizer]
    if model.ent_coef_optimizer is not None:
        optimizers.append(model.ent_coef_optimizer)
    states = [optimizer.state_dict()["state"] for optimizer in optimizers]
    return [value for state in states for held in state.values() for value in held.values()]


@pytest.mark.parametrize("options", COVERED, ids=str)
def test_several_updates_end_where_those_of_stable_baselines3_do(options: dict[str, Any]) -> None:
    stock, ours = learned(stable_baselines3.SAC, options), learned(SAC, options)
    assert covers(ours)
    assert ours._n_updates == stock._n_updates > 10
    for name, tensor in tensors(stock).items():
        torch.testing.assert_close(tensors(ours)[name], tensor, atol=1e-4, rtol=1e-4)
    for ours_part, stock_part in zip(moments(ours), moments(stock), strict=True):
        torch.testing.assert_close(ours_part, stock_part, atol=1e-4, rtol=1e-2)
    if stock.log_ent_coef is not None:
        torch.testing.assert_close(ours.log_ent_coef, stock.log_ent_coef)


@pytest.mark.parametrize("options", OTHERS, ids=str)
def test_what_is_not_covered_learns_by_stable_baselines3s_own_update(
    options: dict[str, Any],
) -> None:
    stock, ours = learned(stable_baselines3.SAC, options), learned(SAC, options)
    assert not covers(ours)
    for name, tensor in tensors(stock).items():
        torch.testing.assert_close(tensors(ours)[name], tensor, atol=0.0, rtol=0.0)


@pytest.mark.parametrize("options", [{}, {"ent_coef": 0.05}], ids=str)
def test_the_logs_say_the_same(options: dict[str, Any]) -> None:
    logs = []
    for kind in (stable_baselines3.SAC, SAC):
        model = make(kind, options)
        # Without an output nothing is ever written out, and with it forgotten.
        model.set_logger(Logger(folder=None, output_formats=[]))
        model.learn(100, log_interval=1000)
        logs.append({k: v for k, v in model.logger.name_to_value.items() if k.startswith("train/")})
    stock, ours = logs
    assert set(ours) == set(stock) and "train/critic_loss" in ours
    for name, value in stock.items():
        assert ours[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


def test_parameters_that_are_no_longer_finite_are_named() -> None:
    model = learned(SAC, {})
    model.replay_buffer.rewards[:] = float("nan")
    with pytest.raises(StageError, match="parameters of SAC became NaN or infinite"):
        model.train(1, 32)


def test_a_saved_policy_is_one_of_stable_baselines3_and_goes_on_there(tmp_path: Path) -> None:
    model = learned(SAC, {})
    model.save(tmp_path / "policy.zip")
    code = (
        "import sys; from stable_baselines3 import SAC; "
        f"model = SAC.load({str(tmp_path / 'policy.zip')!r}, device='cpu'); "
        "assert type(model.policy).__module__.startswith('stable_baselines3'); "
        "sys.exit('training' in sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, check=True)
    finals = []
    for kind in (stable_baselines3.SAC, SAC):
        loaded = kind.load(tmp_path / "policy.zip", env=make_vec_env("Pendulum-v1", 4, seed=9))
        assert type(loaded) is kind
        loaded.set_random_seed(7)
        finals.append(loaded.learn(80, reset_num_timesteps=False))
    for name, tensor in tensors(finals[0]).items():
        torch.testing.assert_close(tensors(finals[1])[name], tensor, atol=1e-4, rtol=1e-4)


def test_the_folder_of_a_policy_names_the_algorithm_and_is_read_back(tmp_path: Path) -> None:
    assert algorithm_class("SAC") is SAC
    folder = save_policy(learned(SAC, {}), tmp_path / "policy", trained_in="real")
    assert '"algorithm": "SAC"' in (folder / "policy.json").read_text(encoding="utf-8")
    assert type(load_policy(folder)) is SAC


def test_a_twin_is_learned_in_with_the_cheap_update() -> None:
    env = WorldModelSB3VecEnv(oracle_twin("Pendulum-v1"), 4, seed=0)
    model = SAC("MlpPolicy", env, **SMALL)
    assert covers(model.learn(100))


def test_the_log_says_once_that_the_fast_update_runs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="world_env"):
        learned(SAC, {})
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage().startswith("SAC: fast CPU update in use")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"use_sde": True}, "action distribution is a StateDependentNoiseDistribution"),
        ({"policy_kwargs": {"activation_fn": torch.nn.ELU}}, "layers ELU are not supported"),
        ({"policy_kwargs": {"optimizer_class": torch.optim.SGD}}, r"expected.*torch\.optim\.Adam"),
    ],
    ids=str,
)
def test_a_fallback_is_warned_of_once_with_its_reason(
    options: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="world_env"):
        learned(SAC, options)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert re.search(f"^SAC: fast CPU update not available.*{reason}", record.getMessage())
