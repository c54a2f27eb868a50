"""The command `export`, and its errors."""

import subprocess
import sys
from pathlib import Path

import pytest
from exported import CHOICE, NORMALIZED, VECTOR, graph, trained
from small_twin import small
from stable_baselines3 import PPO

from world_env.cli.main import main
from world_env.policies.saved_policy import save_policy


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return save_policy(
        trained(PPO, VECTOR, CHOICE, **NORMALIZED), tmp_path / "policy", trained_in="real"
    )


def test_a_policy_becomes_a_graph(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(policy), "--out", str(tmp_path / "out" / "policy.onnx")]) == 0
    said = capsys.readouterr().out
    assert "policy.onnx" in said and "largest relative error on 256 samples" in said
    assert graph(tmp_path / "out" / "policy.onnx")[1]["policy"]["action_space"]["n"] == 4


def test_a_policy_becomes_a_model_of_stable_baselines3_and_the_lost_clamp_is_told(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "alone.zip"
    assert main(["export", str(policy / "policy.zip"), "--out", str(out), "--format", "sb3"]) == 0
    said = capsys.readouterr().out
    assert "note: the policy clips normalised observations to [-10, 10]" in said
    assert PPO.load(out, device="cpu").action_space == CHOICE


def test_a_twin_becomes_two_graphs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small().save(tmp_path / "twin")
    assert main(["export", str(tmp_path / "twin"), "--out", str(tmp_path / "twin.onnx")]) == 0
    said = capsys.readouterr().out
    assert "twin.onnx" in said and "twin-start.onnx" in said
    assert graph(tmp_path / "twin.onnx")[1]["kind"] == "twin step"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{twin}", "--format", "sb3", "--out", "a.zip"], "is a twin, but --format sb3"),
        (["{twin}", "--twin", "{twin}", "--out", "a.onnx"], "is a twin, but"),
        (["no/such", "--out", "a.onnx"], "neither a policy (a folder with policy.json, or a .zip)"),
        (["{policy}", "--out", "a.zip"], "ends in .onnx"),
        (["no-such.zip", "--out", "a.onnx"], "no-such.zip: no such file"),
    ],
)
def test_what_cannot_be_exported_is_named(
    words: list[str],
    said: str,
    policy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"twin": small().save(tmp_path / "twin"), "policy": policy}
    before = set(tmp_path.rglob("*"))
    assert main(["export", *[word.format(**names) for word in words]]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert {path for path in tmp_path.rglob("*") if path.suffix != ".lock"} <= before


def test_an_unknown_format_is_refused_by_the_parser(
    policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["export", str(policy), "--out", "a.onnx", "--format", "tflite"])
    assert left.value.code == 2 and "tflite" in capsys.readouterr().err


def test_the_package_imports_without_the_packages_of_the_extra() -> None:
    code = (
        "import sys; sys.modules.update(onnx=None, onnxruntime=None, onnxscript=None); "
        "from world_env.export import export_policy, export_twin, ExportResult"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
