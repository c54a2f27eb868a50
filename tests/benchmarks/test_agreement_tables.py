"""The tables of agreement.py: goals are judged as they were set, bad rows stay, and what is missing is named."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    return importlib.import_module("benchmarks.agreement.agreement_tables")


def row(**change: Any) -> dict[str, Any]:
    """A row that meets every goal."""
    plain = {
        "task": "CartPole-v1", "kind": "evaluation", "change": {}, "policies": 24, "runs": 10, "seeds": [0, 1, 2],
        "pearson": 0.995, "pearson_ci95": [0.96, 0.999], "ceiling": 0.99, "spearman": 0.9, "spearman_upper_half": 0.8,
        "mmrv_fraction": 0.02, "ceilings": {"mmrv": 4.0}, "bias_fraction": -0.05, "mae_fraction": 0.1, "regret1": 5.0,
        "range": [0.0, 200.0], "coverage90": 0.9, "width_fraction": 0.25, "supported_share": 0.75,
        "past_threshold": 0.1, "supported": {"pearson": 0.97}, "real_steps": [2000], "pool_steps": 10**6,
        "commits": ["a" * 40],
    }  # fmt: skip
    return plain | change


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({}, set()),
        ({"pearson": 0.985, "ceiling": 0.98}, set()),  # the ceiling is enough
        ({"pearson": 0.985}, {"Pearson >= .99 (pixels: .95) or the ceiling"}),
        ({"pearson": 0.955, "task": "Pendulum-v1-pixels"}, set()),
        (
            {"pearson": 0.945, "task": "Pendulum-v1-pixels"},
            {"Pearson >= .99 (pixels: .95) or the ceiling"},
        ),
        ({"pearson_ci95": [0.94, 1.0]}, {"its lower bound >= .95"}),
        ({"mmrv_fraction": 0.021}, {"MMRV <= 2 %"}),
        ({"bias_fraction": -0.051}, {"bias within 5 %"}),
        ({"coverage90": 0.84}, {"coverage 85 to 95 %"}),
        ({"coverage90": 0.96}, {"coverage 85 to 95 %"}),  # too wide is no better than too narrow
        ({"width_fraction": 0.26}, {"width <= 25 %"}),
    ],
)
def test_a_goal_is_missed_where_its_number_says_so(
    tables: ModuleType, change: dict[str, Any], missed: set[str]
) -> None:
    found = tables.verdicts(row(**change))
    assert {name for name, met in found.items() if not met} == missed
    assert tables.verdicts(row(coverage90=None))["coverage 85 to 95 %"] is None


def test_bad_rows_and_missing_cells_are_shown(tables: ModuleType) -> None:
    change = {"rounds": 4}
    rows = [row(seeds=[0, 2]), row(change=change, seeds=[101], pearson=0.5, mmrv_fraction=0.4)]
    rows.append(row(kind="oracle", pearson=None, pearson_ci95=None))
    tree = {"rows": rows, "machine": "m", "command": "python a.py --tasks b"}
    written = tables.agreement_section(tree)
    assert "| 2.0 % (2.0 %) | -5.0 % | 10.0 % | 2.5 % |" in written
    assert "CartPole-v1 (seeds 1)" in written and "HalfCheetah-v5 (seeds 0, 1, 2)" in written
    assert "| CartPole-v1, oracle |" in written and "`aaaaaaaa` on m by `python a.py`" in written
    changes = tables.changes_section(tree)
    assert json.dumps(change) in changes and "| 0.500 [0.960, 0.999] | 40.0 % |" in changes
    assert "option removed" not in changes
    intervals = tables.intervals_section(tree)
    assert "| CartPole-v1, evaluation | 75 % | 90 % | 25.0 % | 10.0 % | 0.970 |" in intervals
    assert "| CartPole-v1 | met | met | met | met | met | met |" in tables.goals_section(tree)


def test_a_change_of_a_removed_option_is_marked(tables: ModuleType) -> None:
    change = {"later_exploration": {"kind": "policy", "path": "middle", "deterministic": False}}
    tree = {"rows": [row(change=change, seeds=[101])], "machine": "m", "command": "python a.py"}
    assert f"| `{json.dumps(change)}` (option removed) |" in tables.changes_section(tree)


def test_missing_observations_of_one_frame_are_named() -> None:
    tables = importlib.import_module("benchmarks.families.families_table")
    schema = json.loads((BENCHMARKS / "results" / "one_frame.schema.json").read_text("utf-8"))
    assert set(tables.SIGHTS) == set(schema["$defs"]["row"]["properties"]["policy"]["enum"])
    rows = [
        {"policy": policy, "seed": seed, "real_steps": 1000, "real_mean": -100.0 - seed, "commit": "a" * 40}
        for policy, seeds in ((tables.STATE, (0, 1, 2)), (tables.LATENTS, (1,)), ("something else", (0,)))
        for seed in seeds
    ]  # fmt: skip
    tree = {"rows": rows, "machine": "m", "command": "python a.py"}
    written, names = tables.one_frame_section(tree), tables.SIGHTS
    assert f"| {names[tables.STATE]} | 1,000 | -101.0 |" in written
    assert f"| {names[tables.LATENTS]} | 1,000 | -101.0 | 1: -101.0 |" in written
    assert "| something else |" in written
    missing = written.split("Not measured: ")[1].splitlines()[0]
    assert f"{names[tables.LATENTS]} (0, 2)" in missing
    assert f"{names[tables.RANDOM]} (0, 1, 2)" in missing
    assert names[tables.STATE] not in missing
