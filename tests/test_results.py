"""Every results file is valid, comes from a clean commit of this history, and uses its own seeds only."""

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FILES = sorted(path for path in RESULTS.glob("*.json") if not path.name.endswith(".schema.json"))
JSON = dict[str, Any]


def schema_of(name: str) -> JSON:
    return json.loads((RESULTS / f"{name}.schema.json").read_text(encoding="utf-8"))


def problems(tree: JSON, schema: JSON) -> list[str]:
    """Problems of a results tree; empty without any."""
    found = [
        f"{error.json_path}: {error.message}"
        for error in jsonschema.Draft202012Validator(schema).iter_errors(tree)
    ]
    if found:
        return found
    if not tree["benchmark"].startswith("returns"):
        return []
    return row_problems(tree["rows"]) + cell_problems(tree)


def cell_problems(tree: JSON) -> list[str]:
    """Every row has a cell, and all cells of a task have the same commit."""
    made: dict[str, set[str]] = {}
    for cell in tree["cells"]:
        made.setdefault(cell["task"], set()).add(cell["commit"])
    found = [
        f"{task}: cells of several commits {sorted(c)}" for task, c in made.items() if len(c) > 1
    ]
    cells = {(cell["task"], cell["seed"]) for cell in tree["cells"]}
    rows = {(row["task"], row["seed"]) for row in tree["rows"]}
    return found + [f"rows of {missing} have no cell" for missing in sorted(rows - cells)]


def row_problems(rows: list[JSON]) -> list[str]:
    """Problems of the rows of returns.json that a schema cannot express."""
    found: list[str] = []
    seen = set()
    for row in rows:
        name = f"{row['task']} seed {row['seed']} round {row['round']} {row['policy']}"
        counted = {key: n for key, n in row["real_steps_by_purpose"].items() if key != "judge"}
        if sum(counted.values()) != row["real_steps"]:
            found.append(f"{name}: {row['real_steps']} real steps, but by purpose {counted}")
        for side in ("real", "learned"):
            low, high = row[f"{side}_ci95"]
            # A degenerate interval and its mean may differ in the last bits.
            slack = 1e-9 * max(1.0, abs(low), abs(high))
            if not low - slack <= row[f"{side}_mean"] <= high + slack:
                found.append(f"{name}: the {side} mean lies outside its interval")
        key = (row["task"], row["seed"], row["round"], row["policy"])
        if key in seen:
            found.append(f"{name}: twice in the file")
        seen.add(key)
    return found


def is_of_this_history(commit: str) -> bool:
    command = ["git", "merge-base", "--is-ancestor", commit, "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


def made_up() -> JSON:
    row = {
        "task": "CartPole-v1",
        "real_steps": 2_000,
        "real_steps_by_purpose": {"collect": 2_000, "judge": 40_000},
        "seed": 0,
        "round": 0,
        "final": True,
        "policy": "ppo_twin",
        "real_mean": 400.0,
        "real_ci95": [390.0, 410.0],
        "learned_mean": 420.0,
        "learned_ci95": [410.0, 430.0],
        "episodes": 100,
    }
    pair = {
        "task": "Pendulum-v1",
        "seed": 0,
        "against": "SAC in reality",
        "real_mean": -150.0,
        "difference": -3.0,
        "difference_ci95": [-6.0, 0.0],
    }
    return {
        "benchmark": "returns",
        "commit": "0" * 40,
        "date": "2026-01-31",
        "machine": "x86_64",
        "command": "python -m benchmarks.returns.returns --resume",
        "rows": [row],
        "pairs": [pair],
        "cells": [{"task": "CartPole-v1", "seed": 0, "commit": "0" * 40, "date": "2026-01-31"}],
    }


def _row(**fields: Any) -> Callable[[JSON], None]:
    return lambda tree: tree["rows"][0].update(fields)


def _file(**fields: Any) -> Callable[[JSON], None]:
    return lambda tree: tree.update(fields)


SPOILED: dict[str, Callable[[JSON], None]] = {
    "dirty commit": _file(commit="0" * 40 + "+"),
    "short commit": _file(commit="0" * 12),
    "no commit": _file(commit=None),
    "unknown file field": _file(note="x"),
    "missing file field": lambda tree: tree.pop("machine"),
    "another command": _file(command="python elsewhere/returns.py"),
    "no rows": _file(rows=[]),
    "unknown row field": _row(note="x"),
    "missing row field": lambda tree: tree["rows"][0].pop("learned_ci95"),
    "unknown policy": _row(policy="ppo"),
    "tuning seed": _row(seed=100),
    "last tuning seed": _row(seed=109),
    "tuning seed in a pair": lambda tree: tree["pairs"][0].update(seed=105),
    "unknown purpose": _row(real_steps_by_purpose={"collect": 2_000, "play": 1}),
    "uncounted steps": _row(real_steps_by_purpose={"collect": 2_000, "evaluate": 500}),
    "judging counted": _row(real_steps=42_000),
    "real steps not whole": _row(real_steps=2_000.5),
    "mean outside its interval": _row(real_mean=500.0),
    "interval of one end": _row(real_ci95=[390.0]),
    "too few episodes": _row(episodes=10),
    "a row without its cell": lambda tree: tree["cells"].clear(),
    "a task of two commits": lambda tree: tree["cells"].append(
        tree["cells"][0] | {"seed": 1, "commit": "1" * 40}
    ),
    "the same row twice": lambda tree: tree["rows"].append(copy.deepcopy(tree["rows"][0])),
}


def test_a_made_up_valid_file_has_no_problem() -> None:
    tree = made_up()
    assert problems(tree, schema_of("returns")) == []
    del tree["pairs"]
    tree["rows"][0]["seed"] = tree["cells"][0]["seed"] = 110
    assert problems(tree, schema_of("returns")) == []


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_file_is_refused(name: str) -> None:
    tree = made_up()
    SPOILED[name](tree)
    assert problems(tree, schema_of("returns"))


TUNING = {
    "benchmark": "tuning",
    "commit": "0" * 40,
    "date": "2026-01-31",
    "machine": "x86_64",
    "command": "python -m benchmarks.returns.tuning --task CartPole-v1",
    "rows": [
        {
            "task": "CartPole-v1",
            "seed": 101,
            "change": {"algo_kwargs": {"gamma": 0.9}},
            "real_steps": 2_000,
            "real_mean": 1.0,
            "learned_mean": 2.0,
            "seconds": 3,
            "commit": "0" * 40,
            "date": "2026-01-31",
        }
    ],
}


def test_tuning_on_a_seed_that_judges_is_refused() -> None:
    assert problems(TUNING, schema_of("tuning")) == []
    for fields in ({"seed": 4}, {"seed": 110}, {"commit": "0" * 40 + "+"}, {"note": "x"}):
        spoiled = copy.deepcopy(TUNING)
        spoiled["rows"][0].update(fields)
        assert problems(spoiled, schema_of("tuning")), fields


AGREEMENT = json.loads((RESULTS / "agreement.json").read_text(encoding="utf-8"))


def test_agreement_is_judged_on_other_seeds_than_changes_are_tried_on() -> None:
    assert problems(AGREEMENT, schema_of("agreement")) == []
    plain = next(i for i, row in enumerate(AGREEMENT["rows"]) if not row["change"])
    changed = next(i for i, row in enumerate(AGREEMENT["rows"]) if row["change"])
    for place, fields, wrong in (
        (plain, {"seeds": [101]}, True),
        (changed, {"seeds": [102]}, False),
        (plain, {"pearson": "high"}, True),
        (plain, {"commits": ["0" * 40 + "+"]}, True),
        (plain, {"coverage90": 1.5}, True),
        (plain, {"note": "x"}, True),
    ):
        spoiled = copy.deepcopy(AGREEMENT)
        spoiled["rows"][place].update(fields)
        assert bool(problems(spoiled, schema_of("agreement"))) == wrong, fields


def test_a_commit_outside_the_history_is_refused() -> None:
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert is_of_this_history(head)
    assert not is_of_this_history("0" * 40)


def test_every_results_file_is_valid_and_comes_from_this_history() -> None:
    assert {path.stem for path in FILES} >= {"returns"}
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        tree = json.loads(text)
        assert problems(tree, schema_of(path.stem)) == [], path.name
        assert tree["benchmark"] == path.stem
        made = [*tree.get("cells", []), *tree["rows"], *tree.get("pairs", [])]
        cells = [part for part in made if "commit" in part]
        for commit in {tree["commit"], *(cell["commit"] for cell in cells)}:
            assert is_of_this_history(commit), f"{path.name}: {commit} is not of this history"
