"""A policy that loads with Stable-Baselines3 alone: the same actions and values, without objects of the package."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported import CHOICE, NORMALIZED, VECTOR, WIDE, normal, trained
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.torch_layers import CombinedExtractor

from world_env.errors import ExportError
from world_env.export import export_policy
from world_env.policies.fast_sb3.ppo import PPO as FastPPO
from world_env.policies.normalization import NormalizedFeatures
from world_env.rl.config import LearnConfig
from world_env.rl.learn import learn
from world_env.twin.twin import Twin

ELSEWHERE = """
import sys

class Elsewhere:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("training", "world_env"):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Elsewhere())
import numpy as np
import stable_baselines3
kind, policy, seen, acted = sys.argv[1:]
model = getattr(stable_baselines3, kind).load(policy, device="cpu")
np.save(acted, model.predict(np.load(seen), deterministic=True)[0])
"""


def acts_elsewhere(kind: str, policy: Path, seen: np.ndarray, tmp_path: Path) -> np.ndarray:
    """Actions of a policy in a process that has no world-env."""
    np.save(tmp_path / "seen.npy", seen)
    files = [str(policy), str(tmp_path / "seen.npy"), str(tmp_path / "acted.npy")]
    command = [sys.executable, "-c", ELSEWHERE, kind, *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return np.load(tmp_path / "acted.npy")  # type: ignore[no-any-return]


@pytest.mark.parametrize("normalize", [True, False])
def test_a_policy_of_learn_acts_where_the_package_is_missing(
    normalize: bool, tmp_path: Path, bundled: list[str]
) -> None:
    twin = Twin.load("cartpole")
    config = LearnConfig(steps=128, num_envs=4, algo_kwargs={"n_steps": 16, "batch_size": 32})
    config = config.updated({"simulation": {"normalize": normalize}}, where="test")
    model = learn(twin, config, out=tmp_path / "policy")
    result = export_policy(tmp_path / "policy", tmp_path / "alone.zip", format="sb3", twin=twin)
    assert (result.outside_clamp is not None) == normalize == bool(result.notes)
    assert twin.states is not None
    seen = twin.codec.decode_observation(twin.states.last())[:500]
    expected, _ = model.predict(seen, deterministic=True)
    assert (acts_elsewhere("PPO", tmp_path / "alone.zip", seen, tmp_path) == expected).all()


CASES: dict[str, tuple[Any, Any, Any]] = {
    "ppo": (PPO, WIDE, {}),
    "ppo-two-extractors": (PPO, WIDE, {"share_features_extractor": False}),
    "ppo-no-hidden-layer": (PPO, WIDE, {"net_arch": []}),
    "ppo-no-policy-layer": (PPO, CHOICE, {"net_arch": {"pi": [], "vf": [8]}}),
    "ppo-multidiscrete": (PPO, spaces.MultiDiscrete([2, 3]), {}),
    "a2c": (A2C, CHOICE, {}),
    "trpo": (TRPO, WIDE, {}),
    "sac": (SAC, WIDE, {"net_arch": [16]}),
    "sac-shared": (SAC, WIDE, {"net_arch": [16], "share_features_extractor": True}),
    "sac-no-hidden-layer": (SAC, WIDE, {"net_arch": []}),
    "sac-actor-alone": (SAC, WIDE, {"net_arch": {"pi": [], "qf": [16]}}),
    "td3": (TD3, WIDE, {"net_arch": [16]}),
    "td3-shared": (TD3, WIDE, {"net_arch": [16], "share_features_extractor": True}),
    "ddpg": (DDPG, WIDE, {"net_arch": [16]}),
    "tqc": (TQC, WIDE, {"net_arch": [16]}),
    "crossq": (CrossQ, WIDE, {"net_arch": [16]}),
    "dqn": (DQN, CHOICE, {}),
    "qrdqn": (QRDQN, CHOICE, {}),
    "maskable": (MaskablePPO, CHOICE, {}),
    "recurrent": (RecurrentPPO, CHOICE, {"lstm_hidden_size": 8}),
    "recurrent-shared": (
        RecurrentPPO,
        WIDE,
        {"lstm_hidden_size": 8, "shared_lstm": True, "enable_critic_lstm": False},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_scales_are_folded_into_every_layer_that_reads_them(name: str, tmp_path: Path) -> None:
    kind, acted, options = CASES[name]
    policy = "MlpLstmPolicy" if kind is RecurrentPPO else "MlpPolicy"
    model = trained(kind, VECTOR, acted, policy, **NORMALIZED, **options)
    result = export_policy(model, tmp_path / "alone.zip", format="sb3")
    alone = kind.load(tmp_path / "alone.zip", device="cpu")
    assert b"world_env" not in b"".join(parts_of(tmp_path / "alone.zip"))
    assert not any(isinstance(each, NormalizedFeatures) for each in alone.policy.modules())
    seen = normal(9.9)
    for rows in (seen[:1], seen):
        expected, _ = model.predict(rows, deterministic=True)
        found, _ = alone.predict(rows, deterministic=True)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert result.max_error <= 1e-5 and "clips normalised observations" in result.notes[0]


def parts_of(path: Path) -> list[bytes]:
    """The files of a model, with its pickles as they are loaded."""
    import base64
    import json
    import zipfile

    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
        others = [archive.read(name) for name in archive.namelist() if name != "data"]
    pickles = [
        v[":serialized:"] for v in data.values() if isinstance(v, dict) and ":serialized:" in v
    ]
    return [*others, *map(base64.b64decode, pickles)]


@pytest.mark.parametrize("kind", [SAC, TD3, TQC], ids=["sac", "td3", "tqc"])
def test_critics_and_their_targets_have_the_same_values(kind: Any, tmp_path: Path) -> None:
    model = trained(kind, net_arch=[16], **NORMALIZED)
    export_policy(model, tmp_path / "alone.zip", format="sb3")
    alone = kind.load(tmp_path / "alone.zip", device="cpu")
    seen, acted = torch.as_tensor(normal(9.9)), torch.linspace(-1, 1, 128).reshape(64, 2)
    for name in ("critic", "critic_target"):
        with torch.no_grad():
            values = [getattr(each.policy, name)(seen, acted) for each in (model, alone)]
        expected, found = (torch.cat(each) if isinstance(each, tuple) else each for each in values)
        torch.testing.assert_close(
            found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max())
        )


def test_a_policy_of_svg_keeps_its_actor_alone(tmp_path: Path, bundled: list[str]) -> None:
    twin = Twin.load("pendulum")
    options = {"batch_size": 8, "policy_kwargs": {"net_arch": [8]}}
    model = learn(twin, LearnConfig(algo="SVG", steps=4, algo_kwargs=options), out=tmp_path / "it")
    result = export_policy(tmp_path / "it", tmp_path / "alone.zip", format="sb3", twin=twin)
    assert "critics of the policy normalise" in result.notes[-1]
    assert twin.states is not None
    seen = twin.codec.decode_observation(twin.states.last())[:200]
    expected, _ = model.predict(seen, deterministic=True)
    found = acts_elsewhere("SAC", tmp_path / "alone.zip", seen, tmp_path)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_exported_model_trains_on(tmp_path: Path) -> None:
    from exported import Still

    model = trained(SAC, net_arch=[16], options={"learning_starts": 4}, **NORMALIZED)
    export_policy(model, tmp_path / "alone.zip", format="sb3")
    alone = SAC.load(tmp_path / "alone.zip", env=Still(VECTOR, WIDE), device="cpu")
    assert torch.equal(alone.log_ent_coef, model.log_ent_coef)
    alone.learn(8)
    assert alone.num_timesteps == 8


def test_a_policy_of_dicts_or_without_scales_is_a_plain_copy(tmp_path: Path) -> None:
    seen = spaces.Dict({"place": VECTOR, "kind": spaces.Discrete(3)})
    model = trained(FastPPO, seen, CHOICE, "MultiInputPolicy")
    result = export_policy(model, tmp_path / "alone.zip", format="sb3")
    alone = PPO.load(tmp_path / "alone.zip", device="cpu")
    for name, value in model.policy.state_dict().items():
        assert torch.equal(alone.policy.state_dict()[name], value)
    assert result.notes == () and result.max_error == 0.0
    assert b"world_env" not in b"".join(parts_of(tmp_path / "alone.zip"))


def test_a_mean_of_many_scales_is_refused_where_float32_cannot_fold_it(tmp_path: Path) -> None:
    scales = {"mean": [1e6, 0.0, 0.0], "scale": [1e-1, 1.0, 1.0]}
    model = trained(PPO, **NORMALIZED | {"features_extractor_kwargs": scales})
    with pytest.raises(ExportError, match=r"many scales from 0.*'onnx'"):
        export_policy(model, tmp_path / "alone.zip", format="sb3")
    assert not list(tmp_path.iterdir())


def test_the_share_of_clipped_data_is_measured(tmp_path: Path, bundled: list[str]) -> None:
    twin = Twin.load("cartpole")
    assert twin.states is not None
    states = twin.codec.decode_observation(twin.states.last())
    scale = np.abs(states[:, 0]).mean() / 20.0
    scales = {"mean": [0.0] * 4, "scale": [float(scale), 1.0, 1.0, 1.0]}
    model = trained(
        PPO,
        twin.spec.observation_space,
        twin.spec.action_space,
        **NORMALIZED | {"features_extractor_kwargs": scales},
    )
    result = export_policy(model, tmp_path / "alone.zip", format="sb3", twin=twin)
    share = float((np.abs(states[:, 0] / scale) > 10.0).mean())
    assert result.outside_clamp == pytest.approx(share, abs=0.1) and 0.2 < share < 0.95
    assert f"{result.outside_clamp:.2%}" in result.notes[0]
    assert result.checked < 256


def test_a_layer_without_bias_is_named(tmp_path: Path) -> None:
    model = trained(PPO, **NORMALIZED, net_arch=[])
    model.policy.value_net = torch.nn.Linear(3, 1, bias=False)
    with pytest.raises(ExportError, match="value_net"):
        export_policy(model, tmp_path / "alone.zip", format="sb3")


class Joined(CombinedExtractor):
    """An extractor of dicts that normalises one key."""

    def __init__(self, observation_space: spaces.Dict) -> None:
        super().__init__(observation_space)
        scales = NORMALIZED["features_extractor_kwargs"]
        self.extractors["place"] = NormalizedFeatures(VECTOR, **scales)


def test_scales_inside_another_extractor_are_named(tmp_path: Path) -> None:
    seen = spaces.Dict({"place": VECTOR, "kind": spaces.Discrete(3)})
    model = trained(PPO, seen, CHOICE, "MultiInputPolicy", features_extractor_class=Joined)
    with pytest.raises(ExportError, match="Joined contains NormalizedFeatures"):
        export_policy(model, tmp_path / "alone.zip", format="sb3")


def test_the_network_of_an_algorithm_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="stores an algorithm"):
        export_policy(trained(PPO).policy, tmp_path / "alone.zip", format="sb3")
