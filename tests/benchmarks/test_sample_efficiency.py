"""The benchmark of sample efficiency: its rows against their schema, its real steps, and its tables."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import gymnasium as gym
import jsonschema
import numpy as np
import pytest

from training import termination_functions
from world_env.fitting.config import FitConfig
from world_env.pipeline.config import BuildConfig
from world_env.refinement.config import RefineConfig

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TASK = "InvertedDoublePendulum-v5"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script with settings and judging that take seconds."""
    script = importlib.import_module("benchmarks.sample_efficiency.sample_efficiency")
    plain = script.refine_config

    def tiny(build: BuildConfig) -> RefineConfig:
        found = plain(build)
        model = {"members": 2, "width": 8, "head_width": 8, "rollout": 2}
        fit = FitConfig(gradient_steps=20, batch_size=32, validate_every=10, model=model)
        options = {"batch_size": 16, "policy_kwargs": {"net_arch": [16, 16]}}
        learn = found.learn.replace(algo_kwargs=options)
        return found.replace(
            rounds=3, first_steps=100, later_gradient_steps=10, fit=fit, learn=learn
        )

    monkeypatch.setattr("world_env.refinement.presets._FEWEST_UPDATES", 300)
    ppo = script.final_ppo
    monkeypatch.setattr(script, "refine_config", tiny)
    monkeypatch.setattr(script, "final_ppo", lambda build: ppo(build).replace(steps=256))
    monkeypatch.setattr(script, "TASKS", {TASK: 300})
    monkeypatch.setattr(script, "LONG", 256)
    monkeypatch.setattr(script, "_ZOO_SAC", {"learning_starts": 250})
    monkeypatch.setattr(script, "_PLAIN_PPO", {"n_steps": 128, "n_epochs": 1})
    monkeypatch.setattr(script, "EVALUATION_SEEDS", range(50))
    monkeypatch.setattr(script, "CURVE_SEEDS", range(2))
    monkeypatch.setattr("world_env.refinement.rounds._PREDICTION_EPISODES", 2)
    monkeypatch.setenv("WORLD_ENV_RUNS", str(tmp_path))
    return script


@pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")
@pytest.mark.slow
def test_rows_are_valid_and_count_their_real_steps(small: ModuleType) -> None:
    rows = {
        policy: {"task": TASK, "seed": 0, "policy": policy} | small.measured(TASK, 0, policy)
        for policy in small.POLICIES
    }
    head = {"benchmark": "sample_efficiency", "date": "2026-01-01", "machine": "any"}
    head |= {
        "commit": "0" * 40,
        "command": "python -m benchmarks.sample_efficiency.sample_efficiency",
    }
    for row in rows.values():
        row["commit"] = "0" * 40  # a checkout in the making is not clean
    tree = head | {"rows": list(rows.values())}
    schema = json.loads((BENCHMARKS / "results" / "sample_efficiency.schema.json").read_text())
    jsonschema.validate(json.loads(json.dumps(tree)), schema)
    # One step more: the check of the environment. PPO in the last twin adds none.
    steps = {policy: row["real_steps"] for policy, row in rows.items()}
    assert steps["svg_twin"] == steps["ppo_twin"] == 301
    assert steps["sac_real"] in (300, 301) and steps["ppo_real"] in (256, 257)
    assert steps["random"] == 0
    assert [point["real_steps"] for point in rows["svg_twin"]["curve"]] == [100, 200]
    predicted = [rows[policy]["predicted_return"]["mean"] for policy in ("svg_twin", "ppo_twin")]
    assert min(predicted) > 0.0 and predicted[0] != predicted[1]
    tables = importlib.import_module("benchmarks.sample_efficiency.sample_efficiency_table")
    text = tables.sample_efficiency_section(tree)
    assert f"| {TASK} | SVG trained only in the twin | 301 |" in text
    assert f"| {TASK} | mean over seeds >= 9,000 |" in text and "(1 of 3 seeds) | not meas" in text
    assert " of 1 |" in text
    known = {"predicted_return": {"mean": 4.0, "low": 3.0, "high": 5.0}, "real_mean": 3.5}
    assert tables._predicted(known) == "4 [3, 5] (+0)" and tables.covers(known)
    assert not tables.covers(known | {"real_mean": 5.5})
    assert "100: " in tables.learning_curves_section(tree)


@pytest.mark.slow
def test_rows_of_the_critics_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    script = importlib.import_module("benchmarks.sample_efficiency.svg_critics")
    for name, value in (("UPDATES", (3, 5)), ("RESET_SEEDS", range(1)), ("STEPS", 10)):
        monkeypatch.setattr(script, name, value)
    schema = json.loads((BENCHMARKS / "results" / "svg_critics.schema.json").read_text())
    assert list(script.CRITICS) == schema["$defs"]["row"]["properties"]["critics"]["enum"]
    rows = [
        {"task": script.TWIN, "seed": 0, "critics": name} | script.measured(0, script.CRITICS[name])
        for name in ("plain", "normalised, unit 100")
    ]
    made = {"commit": "0" * 40, "date": "2026-01-01"}
    tree = {"benchmark": "svg_critics", "machine": "any", "rows": [row | made for row in rows]}
    tree |= made | {"command": "python -m benchmarks.sample_efficiency.svg_critics"}
    jsonschema.validate(tree, schema)
    tables = importlib.import_module("benchmarks.sample_efficiency.sample_efficiency_table")
    assert "| plain | 5 | 0: " in tables.svg_critics_section(tree)


@pytest.mark.parametrize("task", ["Hopper-v5", "Walker2d-v5", TASK, "HalfCheetah-v5"])
def test_true_terminations_are_those_of_the_environment(task: str) -> None:
    script = importlib.import_module("benchmarks.sample_efficiency.sample_efficiency")
    env, ends = gym.make(task), script.termination_of(task)
    assert ends is getattr(termination_functions, script.TERMINATIONS[task])
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    found, true = [], []
    for _ in range(500):
        before, action = observation, env.action_space.sample()
        observation, _, terminated, truncated, _ = env.step(action)
        found.append(bool(ends(before[None], action[None], observation[None])[0]))
        true.append(terminated)
        if terminated or truncated:
            observation, _ = env.reset()
    np.testing.assert_array_equal(found, true)
    assert any(true) == (task != "HalfCheetah-v5")
