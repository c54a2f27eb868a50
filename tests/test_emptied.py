"""The demo and the returns benchmark make what they need: they run with no bundled twin at all."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# The tasks' own sizes would take minutes; what is tested is that nothing leans on a bundled twin.
SMALL = """
import dataclasses, runpy, sys
from training.tasks import TASKS
TASKS["CartPole-v1"] = dataclasses.replace(TASKS["CartPole-v1"], real_steps=400, learn_steps=4096)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def emptied(tmp_path: Path) -> Path:
    """A copy of the checkout's code without any bundled twin."""
    ignore = shutil.ignore_patterns("twins", "__pycache__")
    for name in ("world_env", "training", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    (tmp_path / "world_env" / "twins").mkdir()
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
    out = run(emptied, "-m", "training.cli", "demo", "--learn-steps", "4096", "--updates", "60")
    assert "ppo_twin" in out
    assert (emptied / "runs/demo/report/report.html").stat().st_size > 10_000
    assert (emptied / "runs/demo/twin/card.md").is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_returns_benchmark_runs_without_bundled_twins(emptied: Path) -> None:
    out = emptied / "returns.json"
    words = ("benchmarks/returns.py", "--tasks", "CartPole-v1", "--seeds", "1001", "--only-twin")
    run(emptied, "-c", SMALL, *words, "--out", str(out))
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert {row["policy"] for row in rows} == {"random", "ppo_twin"}
