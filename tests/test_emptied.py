"""The demo and the returns benchmark make what they need: they run with no bundled twin at all."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

ROOT = Path(__file__).resolve().parents[1]

# The tasks' own sizes would take minutes; what is tested is that nothing leans on a bundled twin.
SMALL = """
import runpy, sys
from training.tasks import TASKS
small = dict(real_steps=400, learn_steps=4096, many_steps=512)
for name in ("CartPole-v1", "Pendulum-v1"):
    TASKS[name] = TASKS[name].replace(**small)
TASKS["Pendulum-v1"] = TASKS["Pendulum-v1"].replace(reference_steps=500)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def emptied(tmp_path: Path) -> Path:
    """A copy of the checkout's code without any bundled twin."""
    ignore = shutil.ignore_patterns("bundled_twins", "__pycache__")
    for name in ("world_env", "training", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    (tmp_path / "world_env" / "bundled_twins").mkdir()
    shutil.copy(ROOT / "world_env/bundled_twins/__init__.py", tmp_path / "world_env/bundled_twins")
    return tmp_path


def run(folder: Path, *words: str) -> str:
    """Runs Python in the copy, its own packages first; returns what it printed."""
    environment = os.environ | {"PYTHONPATH": str(folder), "WORLD_ENV_RUNS": str(folder / "runs")}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=880,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_runs_without_bundled_twins(emptied: Path) -> None:
    out = run(
        emptied,
        "-m",
        "world_env.cli.main",
        "demo",
        "--learn-steps",
        "4096",
        "--gradient-steps",
        "60",
    )
    assert "PPO trained in the twin" in out
    assert (emptied / "runs/demo/report/report.html").stat().st_size > 10_000
    assert (emptied / "runs/demo/twin/card.md").is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_returns_benchmark_runs_without_bundled_twins(emptied: Path) -> None:
    out = emptied / "returns.json"
    words = ("benchmarks.returns.returns", "--seeds", "1001", "--out", str(out))
    run(emptied, "-c", SMALL, *words, "--tasks", "CartPole-v1", "--only-twin")
    run(emptied, "-c", SMALL, *words, "--tasks", "Pendulum-v1", "--resume")
    tree = json.loads(out.read_text(encoding="utf-8"))
    found = {(row["task"], row["policy"]): row["real_steps"] for row in tree["rows"]}
    assert found == {
        ("CartPole-v1", "random"): 0,
        # With the step of the check of the environment.
        ("CartPole-v1", "ppo_twin"): 401,
        ("Pendulum-v1", "random"): 0,
        ("Pendulum-v1", "ppo_twin"): 401,
        # On-policy algorithms finish their rollouts.
        ("Pendulum-v1", "ppo_real_same_steps"): 512,
        ("Pendulum-v1", "offpolicy_real_same_steps"): 400,
        ("Pendulum-v1", "ppo_real_many_steps"): 2048,
    }
    assert [pair["against"] for pair in tree["pairs"]] == ["SAC in reality, 500 steps"]
    schema = json.loads((ROOT / "benchmarks/results/returns.schema.json").read_text("utf-8"))
    # The copy is no checkout, so it knows no commit.
    problems = list(jsonschema.Draft202012Validator(schema).iter_errors(tree))
    assert {problem.path[-1] for problem in problems} <= {"commit"}
