"""The three recipes run one after another, as `make demo` runs them, with a tiny budget."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("train_world_model", "train_ppo", "compare_returns")


def run(module: str, *words: object) -> str:
    command = [sys.executable, "-W", "ignore", "-m", f"training.{module}", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_recipes_lead_from_an_environment_to_a_page(tmp_path: Path) -> None:
    fitting = ["CartPole-v1", "--steps", 300, "--gradient-steps", 20, "--out", tmp_path]
    shown = run("train_world_model", *fitting)
    assert "300 real steps in" in shown
    twin, policy = tmp_path / "twin", tmp_path / "ppo.zip"
    assert (twin / "card.md").is_file()
    for num_envs in (1, 8):
        train = ("train_ppo", "--twin", twin, "--out", policy, "--steps", 512)
        run(*train, "--num-envs", str(num_envs))
        assert policy.is_file()
    shown = run("compare_returns", "--twin", twin, "--policy", policy, "--out", tmp_path, "--episodes", 50)  # fmt: skip
    assert re.search(r"PPO in the twin +[\d.]+ \[", shown)
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("stage", STAGES)
def test_a_recipe_is_short_and_explains_itself(stage: str) -> None:
    assert len((ROOT / "training" / f"{stage}.py").read_text("utf-8").splitlines()) <= 80
    assert "--out" in run(stage, "--help")


def test_the_build_of_a_task_explains_itself() -> None:
    assert "Pendulum-v1" in run("build_task", "--help")
