"""The returns benchmark keeps what it has, cell by cell."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from training.tasks import TASKS
from world_env.real.step_ledger import StepLedger
from world_env.rollouts.returns import Returns

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def returns() -> ModuleType:
    return importlib.import_module("benchmarks.returns.returns")


def cell(task: str, seed: int) -> dict[str, Any]:
    row = {"task": task, "seed": seed, "policy": "random", "real_mean": 1.0, "learned_mean": 1.0}
    return {"rows": [row], "pairs": [], "cells": [{"task": task, "seed": seed}]}


def test_cells_add_up_in_order(returns: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "results" / "returns.json"
    for task, seed in (("b", 1), ("a", 2), ("a", 0)):
        returns.merge(path, "returns", cell(task, seed), keep=True)
    stored = returns.read(path)
    assert [(row["task"], row["seed"]) for row in stored["rows"]] == [("a", 0), ("a", 2), ("b", 1)]
    assert {"benchmark", "commit", "date", "machine", "command", "rows"} <= set(stored)
    assert [path.name for path in path.parent.iterdir()] == ["returns.json"]
    assert returns.has_cell(stored, "a", 2)
    assert not returns.has_cell(stored, "a", 1) and not returns.has_cell(stored, "c", 0)


def test_without_keep_the_file_begins_anew(returns: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "returns.json"
    returns.merge(path, "returns", cell("a", 0), keep=True)
    returns.merge(path, "returns", cell("a", 1), keep=False)
    assert [row["seed"] for row in returns.read(path)["rows"]] == [1]


def test_a_missing_file_is_no_cell(returns: ModuleType, tmp_path: Path) -> None:
    assert returns.read(tmp_path / "nothing.json") is None


def test_a_number_that_json_lacks_leaves_the_file_as_it_was(
    returns: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "returns.json"
    returns.merge(path, "returns", cell("a", 0), keep=True)
    before = path.read_text(encoding="utf-8")
    bad = cell("a", 1)
    bad["rows"][0]["real_mean"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        returns.merge(path, "returns", bad, keep=True)
    assert path.read_text(encoding="utf-8") == before


def test_resuming_runs_only_the_missing_cells(
    returns: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, ran = tmp_path / "returns.json", []

    def run_cell(task: str, seed: int, folder: Path, **_: Any) -> dict[str, Any]:
        ran.append(seed)
        return cell(task, seed)

    def run(*words: str) -> list[int]:
        ran.clear()
        command = ["returns.py", "--tasks", "CartPole-v1", "--out", str(path), *words]
        monkeypatch.setattr(sys, "argv", command)
        returns.main()
        return list(ran)

    monkeypatch.setattr(returns, "run_cell", run_cell)
    assert run("--seeds", "0", "1") == [0, 1]
    assert run("--seeds", "0", "1", "2", "--resume") == [2]
    assert [row["seed"] for row in json.loads(path.read_text())["rows"]] == [0, 1, 2]
    assert run("--seeds", "0") == [0]
    assert [row["seed"] for row in json.loads(path.read_text())["rows"]] == [0]


def test_a_row_says_what_was_spent_and_what_came_of_it(returns: ModuleType) -> None:
    ledger = StepLedger()
    ledger.count("collect", 30)
    ledger.count("judge", 100)
    real = Returns(np.array([1.0, 3.0]), np.array([5, 5]), None)
    learned = Returns(np.array([2.0, 2.0]), np.array([5, 5]), None)
    row = returns.row_of("CartPole-v1", 4, 0, "ppo_twin", real, learned, ledger)
    assert row["real_steps"] == 30
    assert row["real_steps_by_purpose"] == {"collect": 30, "judge": 100}
    assert row["real_mean"] == row["learned_mean"] == 2.0
    assert row["episodes"] == 2


def test_every_task_has_the_alternatives_in_reality(returns: ModuleType) -> None:
    for task in TASKS.values():
        configs = returns.real_configs(task, 3)
        assert set(configs) == {
            "ppo_real_same_steps",
            "offpolicy_real_same_steps",
            "ppo_real_many_steps",
        }
        assert {config.seed for config in configs.values()} == {3}
        assert configs["ppo_real_same_steps"].steps == task.real_steps
        assert configs["offpolicy_real_same_steps"].steps == task.real_steps
