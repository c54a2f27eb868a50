"""The alarm's benchmark runs at a tiny size and writes what its schema says; sabotages do what their names say."""

import dataclasses
import functools
import importlib
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from oracle import oracle_twin

from training.tasks import TASKS
from world_env.data_range import DataRange
from world_env.fitting.config import FitConfig
from world_env.simulation.simulator import Simulator, SimulatorConfig, StepResult
from world_env.twin.twin import Twin

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MODULES = (
    "returns.returns",
    "diagnostics.sabotages",
    "diagnostics.alarm_table",
    "diagnostics.alarm",
)
FIT = {
    "gradient_steps": 4,
    "batch_size": 20,
    "validate_every": 2,
    "model": {"members": 2, "width": 8},
}


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    return {name: importlib.import_module(f"benchmarks.{name}") for name in MODULES}


@pytest.fixture
def tiny(
    scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[ModuleType]:
    script = scripts["diagnostics.alarm"]
    options = {"n_steps": 2, "batch_size": 64, "n_epochs": 1}
    short = TASKS["Pendulum-v1"].replace(real_steps=400, algo_kwargs=options)
    for name, value in {
        "FitConfig": functools.partial(FitConfig, **FIT),
        "TASKS": {"Pendulum-v1": short},
        "CELLS": ("Pendulum-v1",),
        "STEPS": 64,
        "EVERY": 64,
        "REAL_EVALUATIONS": 1,
        "REAL_EPISODES": 2,
        "EVALUATION_SEEDS": range(2),
        "SELECT_SEEDS": range(2),
        "JUDGED": ("frozen",),
    }.items():
        monkeypatch.setattr(script, name, value)
    monkeypatch.setenv("WORLD_ENV_RUNS", str(tmp_path / "runs"))
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        yield script
    torch.set_num_threads(threads)


def schema() -> dict[str, Any]:
    return json.loads((BENCHMARKS / "results" / "alarm.schema.json").read_text(encoding="utf-8"))


def run(script: ModuleType, out: Path, patch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    patch.setattr(sys, "argv", [str(BENCHMARKS / "alarm.py"), *words, "--out", str(out)])
    script.main()
    tree: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    for part in (tree, *tree["rows"]):
        # Of a checkout with changes, or of none at all.
        part["commit"] = "0" * 40
    jsonschema.validate(tree, schema())
    return tree


def test_the_benchmark_adds_what_is_missing(
    tiny: ModuleType,
    scripts: dict[str, ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "alarm.json"
    tree = run(tiny, out, monkeypatch, "--seeds", "0")
    assert [(row["seed"], row["sabotage"]) for row in tree["rows"]] == [
        (0, "none"),
        (0, "frozen"),
    ]
    assert "frozen" in tree["rows"][1]["signals"]
    assert all(row["real_evaluation_steps"] == 400 for row in tree["rows"])
    monkeypatch.setattr(tiny, "run_cell", None)
    assert run(tiny, out, monkeypatch, "--seeds", "0", "--resume")["rows"] == tree["rows"]
    for spoiled in ({"seed": 100}, {"sabotage": "deaf"}, {"tuning": True}):
        row = tree["rows"][0] | spoiled
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(tree | {"rows": [row]}, schema())
    written = scripts["diagnostics.alarm_table"].alarm_section(tree)
    assert "| Pendulum-v1 | frozen |" in written and "1 of 1" in written


SEEN = DataRange({"observation": ([-0.03] * 4, [0.03] * 4)}, (1.0, 1.0))


def pushed_left(twin: Twin, steps: int) -> list[StepResult]:
    simulator = Simulator(twin, 2, seed=0, config=SimulatorConfig(uncertainty=True))
    simulator.reset(options={"observation": np.zeros((2, 4), np.float32)})
    return [simulator.step(np.zeros(2, int)) for _ in range(steps)]


def test_sabotages_do_what_their_names_say(scripts: dict[str, ModuleType]) -> None:
    sabotaged = scripts["diagnostics.sabotages"].sabotaged
    wide = dataclasses.replace(SEEN, observation={"observation": ([-9.0] * 4, [9.0] * 4)})
    sound = dataclasses.replace(oracle_twin("CartPole-v1"), uncertainty_threshold=0.001)
    near = dataclasses.replace(sound, ranges=wide)
    honest = pushed_left(near, 8)
    frozen = pushed_left(sabotaged(near, "frozen"), 8)
    assert not np.any([result.observation for result in frozen]) and frozen[-1].reward[0] == 1.0
    deathless = pushed_left(sabotaged(near, "no deaths"), 40)
    assert not np.any([result.end for result in deathless])
    np.testing.assert_array_equal(deathless[7].observation, honest[7].observation)
    # The exact cart-pole is as uncertain as it is far from the middle.
    paid = [result.reward[0] for result in pushed_left(sabotaged(near, "reward off the data"), 8)]
    doubtful = [
        result.uncertainty[0] > 0.001 for result in honest if result.uncertainty is not None
    ]
    assert paid == [2.0 if doubt else 1.0 for doubt in doubtful] and 1.0 in paid and 2.0 in paid
    narrow = dataclasses.replace(near, ranges=SEEN, uncertainty_threshold=9.0)
    paid = [result.reward[0] for result in pushed_left(sabotaged(narrow, "reward off the data"), 1)]
    assert paid == [2.0]
