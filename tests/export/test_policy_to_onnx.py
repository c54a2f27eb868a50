"""A policy as an ONNX graph: the actions of `predict`, in the units of the environment, for any number of rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import CHOICE, NORMALIZED, VECTOR, graph, normal, trained
from gymnasium import spaces
from sb3_contrib import TQC, MaskablePPO, RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.policies import ActorCriticPolicy

from world_env.errors import ExportError, InvalidOptionError, MissingExtraError, SpaceMismatchError
from world_env.export import export_policy
from world_env.policies.held_policy import HeldPolicy
from world_env.policies.latent_policy import LatentEncoder, attach_encoder
from world_env.policies.saved_policy import save_policy
from world_env.policies.sb3_policy import SB3Policy
from world_env.twin.twin import Twin

MIXED = spaces.Dict(
    {
        "place": VECTOR,
        "kind": spaces.Discrete(3),
        "picture": spaces.Box(0, 255, (3, 36, 36), np.uint8),
    }
)


@pytest.mark.parametrize(
    ("kind", "acted"),
    [(PPO, None), (SAC, None), (TQC, None), (PPO, spaces.MultiDiscrete([2, 3])), (DQN, CHOICE)],
    ids=["ppo", "sac", "tqc", "ppo-multidiscrete", "dqn"],
)
def test_a_graph_acts_as_the_policy_also_where_observations_are_clipped(
    kind: Any, acted: Any, tmp_path: Path
) -> None:
    model = trained(kind, **({} if acted is None else {"acted": acted}), **NORMALIZED)
    result = export_policy(model, tmp_path / "policy.onnx")
    run, facts = graph(tmp_path / "policy.onnx")
    assert facts["kind"] == "policy" and result.max_error <= 1e-5
    for rows in (1, 64):
        seen = normal(40.0, rows)  # ten scales are the limit
        expected, _ = model.predict(seen, deterministic=True)
        action = run({"observation": seen})["action"]
        assert action.dtype == expected.dtype and action.shape == expected.shape
        np.testing.assert_allclose(action, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_a_dict_of_vectors_images_and_categories_has_one_input_a_key(tmp_path: Path) -> None:
    model = trained(PPO, MIXED, CHOICE, "MultiInputPolicy")
    export_policy(SB3Policy(model), tmp_path / "policy.onnx")
    run, _ = graph(tmp_path / "policy.onnx")
    rng = np.random.default_rng(0)
    seen = {
        "place": rng.normal(size=(40, 3)).astype(np.float32),
        "kind": rng.integers(3, size=40),
        "picture": rng.integers(256, size=(40, 3, 36, 36)).astype(np.uint8),
    }
    action = run({f"observation.{key}": value for key, value in seen.items()})["action"]
    expected, _ = model.predict(seen, deterministic=True)
    assert (action == expected).all() and len(set(expected.tolist())) > 1


def test_a_masked_policy_has_its_masks_as_an_input(tmp_path: Path) -> None:
    model = trained(MaskablePPO, VECTOR, CHOICE)
    export_policy(model, tmp_path / "policy.onnx")
    run, _ = graph(tmp_path / "policy.onnx")
    masks = np.eye(4, dtype=bool)[np.arange(20) % 4]
    action = run({"observation": normal(1.0, 20), "action_masks": masks})["action"]
    assert action.tolist() == (np.arange(20) % 4).tolist()


def test_a_saved_policy_is_exported_from_its_folder_on_the_states_of_a_twin(
    tmp_path: Path, bundled: list[str]
) -> None:
    twin = Twin.load("cartpole")
    model = trained(PPO, twin.spec.observation_space, twin.spec.action_space)
    save_policy(model, tmp_path / "policy", trained_in="real")
    result = export_policy(tmp_path / "policy", tmp_path / "policy.onnx", twin=twin)
    assert result.checked > 100 and result.files == (tmp_path / "policy.onnx",)
    other = trained(PPO, VECTOR, CHOICE)
    with pytest.raises(SpaceMismatchError):
        export_policy(other, tmp_path / "other.onnx", twin=twin)


class Shifted(ActorCriticPolicy):
    """Its `predict` is not that of its network."""

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        actions, state = super().predict(*args, **kwargs)
        return actions + 1, state


def test_a_graph_that_differs_from_the_policy_is_not_written(tmp_path: Path) -> None:
    model = trained(PPO, policy=Shifted)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=r"'action' by .* Nothing was written"):
        export_policy(model, tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())


class Conditional(ActorCriticPolicy):
    """Python code that depends on the values of the observations."""

    def _predict(self, observation: Any, deterministic: bool = False) -> Any:
        if observation.sum() > 0:
            observation = -observation
        return super()._predict(observation, deterministic)


def test_a_network_that_branches_on_values_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"Conditional.* cannot be exported to ONNX: .*if tensor"):
        export_policy(trained(PPO, policy=Conditional), tmp_path / "policy.onnx")  # type: ignore[arg-type]


def test_policies_without_an_exportable_network_are_named(
    tmp_path: Path, bundled: list[str]
) -> None:
    out = tmp_path / "policy.onnx"
    latent = trained(PPO, VECTOR, CHOICE)
    attach_encoder(latent, LatentEncoder(Twin.load("cartpole"), "latent"))
    policies = {
        "Python function": lambda seen: seen,
        "HeldPolicy": HeldPolicy(CHOICE, 2.0),
        "latent states.*observation_mode='observation'": latent,
        "recurrent.*format='sb3'": trained(RecurrentPPO, VECTOR, CHOICE, "MlpLstmPolicy"),
    }
    for words, policy in policies.items():
        with pytest.raises(ExportError, match=words):
            export_policy(policy, out)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "policy.json").write_text('{"kind": "own"}')
    with pytest.raises(ExportError, match="another kind"):
        export_policy(tmp_path / "own", out)
    assert not out.exists()


def test_a_policy_of_another_library_is_named(tmp_path: Path) -> None:
    import sbx

    with pytest.raises(ExportError, match="JAX"):
        export_policy(sbx.PPO("MlpPolicy", "Pendulum-v1", n_steps=64), tmp_path / "policy.onnx")


def test_an_unknown_format_or_ending_is_named(tmp_path: Path) -> None:
    model = trained(PPO)
    with pytest.raises(
        InvalidOptionError, match="format is 'tflite', expected one of 'onnx', 'sb3'"
    ):
        export_policy(model, tmp_path / "policy.onnx", format="tflite")  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match=r"ends in \.onnx"):
        export_policy(model, tmp_path / "policy.zip")
    with pytest.raises(InvalidOptionError, match=r"ends in \.zip"):
        export_policy(model, tmp_path / "policy.onnx", format="sb3")


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r'onnxscript .*pip install "world-env\[export\]"'):
        export_policy(trained(PPO), tmp_path / "policy.onnx")
