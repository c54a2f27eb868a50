"""The benchmark of refined policies: its changes, its rows against their schema, and its tables."""

import importlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import jsonschema
import pytest

from training.tasks import TASKS, Task, refine_task
from world_env.fitting.config import FitConfig
from world_env.refinement.config import RefineConfig
from world_env.rl.config import TwinTrainingConfig
from world_env.rl.learn import LearnConfig
from world_env.spec import EnvConfig

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TASK = "Reacher-v5"
TINY_PPO = {"n_steps": 16, "batch_size": 64, "n_epochs": 1}


@pytest.fixture
def script() -> ModuleType:
    return importlib.import_module("benchmarks.refinement.refined")


def tiny_task() -> Task:
    return Task("tiny", 400, rounds=2, gradient_steps=20, learn_steps=256, many_steps=1_000_000)


@pytest.fixture
def small(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script with a task, policies and judging that take seconds."""

    def refined(*arguments: Any, algo: str) -> RefineConfig:
        plain = refine_task(*arguments, algo=algo)
        options = TINY_PPO if algo == "PPO" else {"batch_size": 40, "learning_starts": 50}
        learning = {"learn": {"num_envs": 8, "algo_kwargs": options, "steps": 256}}
        return script.changed(
            plain,
            learning
            | {
                "later_gradient_steps": 20,
                "fit": {"gradient_steps": 20, "batch_size": 40, "validate_every": 10},
            },
        )

    monkeypatch.setitem(TASKS, TASK, tiny_task())
    monkeypatch.setattr(script, "refine_task", refined)
    monkeypatch.setattr(script, "EVALUATION_SEEDS", range(50))
    monkeypatch.setattr(script, "ROUND_SEEDS", range(10))
    monkeypatch.setattr(script, "LONG", 512)
    monkeypatch.setattr(script, "EXPLORING", 200)
    scales = {"mean": [0.0] * 10, "scale": [2.0] * 10}
    monkeypatch.setattr(script, "exploring_scales", lambda task: scales)
    monkeypatch.setattr("world_env.refinement.rounds._PREDICTION_EPISODES", 2)
    monkeypatch.setenv("WORLD_ENV_RUNS", str(tmp_path))
    return script


@pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")
@pytest.mark.slow
def test_the_columns_of_a_cell_are_valid_rows_and_count_their_real_steps(small: ModuleType) -> None:
    made = {}
    rounds: list[dict[str, Any]] = []
    for column in ("ppo_twin", "random", "ppo_real_twin_steps", "ppo_real_long", "sac_twin"):
        cell = small.Cell(TASK, 0, {}).run(column)
        (made[column],) = cell["rows"]
        rounds += cell["rounds"]
    schema = json.loads((BENCHMARKS / "results" / "refined.schema.json").read_text())
    head = {"benchmark": "refined", "commit": "0" * 40, "date": "2026-01-01", "machine": "any"}
    head["command"] = "python -m benchmarks.refinement.refined"
    tree = head | {"rows": list(made.values()), "rounds": rounds}
    for each in [*tree["rows"], *rounds]:
        each["commit"] = "0" * 40  # a checkout in the making is not clean
    jsonschema.validate(tree, schema)
    real_steps = [(row["policy"], row["real_steps"]) for row in rounds]
    assert real_steps == [
        (p, n)
        for p, ns in (("ppo_twin", [200, 400]), ("sac_twin", [100, 200, 300, 400]))
        for n in ns
    ]
    # The first one has the step of the check of the environment too.
    assert (made["ppo_twin"]["real_steps"], made["sac_twin"]["real_steps"]) == (401, 400)
    assert made["random"]["real_steps"] == made["random"]["learned_steps"] == 0
    assert made["ppo_twin"]["learned_steps"] == 512
    assert made["ppo_real_twin_steps"]["real_steps"] == 512 + 200
    assert made["ppo_real_long"]["real_steps"] == 64 * 64 + 200  # one rollout of the defaults
    tables = importlib.import_module("benchmarks.refinement.refined_table")
    (row,) = re.findall(
        r"\| PPO trained only in the twin \|.*", tables.refined_section(tree).replace(",", "")
    )
    assert row.split(" | ")[1] == "401" and row.split(" | ")[3] == "512"
    assert int(row.split(" | ")[2]) > 0  # steps of the final evaluation
    missing = tables.missing_section(tree)
    assert "| Walker2d-v5 | all (0, 1, 2) |" in missing and f"| {TASK} | " in missing
    goals = tables.goals_section(tree).splitlines()
    assert sum(line.endswith("so far (1 of 3 seeds) |") for line in goals) == 4
    assert f"| {TASK} | PPO | 0 | 200: " in tables.rounds_section(tree)


def test_a_control_of_as_many_steps_takes_them_from_the_row_that_is_there(
    small: ModuleType, tmp_path: Path
) -> None:
    cell = small.Cell(TASK, 0, {}, tmp_path / "rows.json")
    rows = [cell.of("ppo_twin") | {"seed": seed, "learned_steps": 100 + seed} for seed in (1, 0)]
    cell.results.write_text(json.dumps({"rows": rows}))
    assert cell.twin_steps() == 100
    assert not (cell.folder / "ppo_twin").exists()


def test_a_change_of_learning_is_one_in_reality_too(small: ModuleType) -> None:
    change = {"rounds": 1, "learn": {"algo_kwargs": {"gamma": 0.9, **TINY_PPO}}}
    cell = small.Cell(TASK, 0, change)
    (row,) = cell.run("ppo_real_long")["rows"]
    assert row["change"] == {"learn": change["learn"]}
    assert row["real_steps"] == 64 * 16 + 200  # one rollout
    policy = json.loads((cell.folder / "ppo_real_long" / "policy.json").read_text())
    assert policy["provenance"]["learn"]["algo_kwargs"] == change["learn"]["algo_kwargs"]
    assert cell.of("random")["change"] == {}
    assert cell.of("ppo_twin")["change"] == change
    # What means something in twins alone makes no other bar.
    told = small.Cell(TASK, 0, {"learn": {"simulation": {"on_uncertain": "truncate"}, "steps": 9}})
    assert told.of("ppo_real_long")["change"] == told.of("sac_real_same_steps")["change"] == {}


def test_a_change_reaches_every_part_of_the_configuration(script: ModuleType) -> None:
    plain = RefineConfig(EnvConfig(TASK), Path("x"), fit=FitConfig(gradient_steps=9))
    change = {"rounds": 3, "max_candidates": 5, "model": {"members": 2},
              "fit": {"batch_size": 3}, "learn": {"simulation": {"temperature": 0.5}}}  # fmt: skip
    config = script.changed(plain, change)
    assert (config.rounds, config.max_candidates) == (3, 5)
    assert (config.fit.model, config.fit.batch_size, config.fit.gradient_steps) == (
        {"members": 2},
        3,
        9,
    )
    assert config.learn == LearnConfig(simulation=TwinTrainingConfig(temperature=0.5))
    assert change["learn"] == {"simulation": {"temperature": 0.5}}


def test_every_arm_is_another_configuration_and_stands_beside_the_row(script: ModuleType) -> None:
    row = refine_task(TASKS["Hopper-v5"], EnvConfig("Hopper-v5"), Path("x"), 0)
    arms = {name: script.changed(row, change) for name, change in script.ARMS.items()}
    assert arms.pop("recipe") == row
    assert len({repr(arm) for arm in (row, *arms.values())}) == 1 + len(arms)
    made = {"task": "Hopper-v5", "seed": 103, "policy": "ppo_twin", "real_mean": 1_000.0}
    made |= {"forward_mean": 9.0, "real_steps": 5, "predicted_return": None, "commit": "0" * 40}
    table = importlib.import_module("benchmarks.refinement.refined_table")
    for arm, base in (
        ("no hard termination bounds", script.ARMS["earlier recipe"]),
        ("out of distribution: truncated", {}),
    ):
        rows = [made | {"change": base}, made | {"change": script.ARMS[arm], "real_mean": 400.0}]
        written = table.ablation_section({"rows": rows})
        assert f"| Hopper-v5 | {arm} | 103: 400 (1,000) | - | `00000000` |" in written
        assert table.tried_section({"rows": rows[1:]}) == ""
    assert table.ablation_section({"rows": rows[:1]}) == ""


def test_rows_of_removed_arms_are_shown_but_cannot_be_run(script: ModuleType) -> None:
    arms = importlib.import_module("benchmarks.refinement.refined_arms")
    table = importlib.import_module("benchmarks.refinement.refined_table")
    stored = json.loads((BENCHMARKS / "results" / "refined.json").read_text("utf-8"))
    written = table.ablation_section(stored) + table.tried_section(stored)
    assert not set(arms.REMOVED_ARMS) & set(script.ARMS)
    for name, change in arms.REMOVED_ARMS.items():
        rows = [row for row in stored["rows"] if row["change"] == change]
        (line,) = (line for line in written.splitlines() if f"| {name} (option removed) |" in line)
        assert rows and all(row["commit"][:8] in line for row in rows)
    assert not any(map(arms.removed_options, script.ARMS.values()))
    for change in (
        {"judge": True},
        {"first_steps": 5},
        {"later_exploration": {"kind": "policy", "path": "early"}},
    ):
        assert arms.removed_options(change)
    # Every changed row is in one of the two tables.
    changed = [row for row in stored["rows"] if row["change"] and row["policy"] == "ppo_twin"]
    assert all(f"{row['seed']}: {row['real_mean']:,.0f}" in written for row in changed)


@pytest.mark.parametrize(
    ("predicted", "real", "holds"),
    [
        ({"mean": 100.0, "low": None, "high": None}, 110.0, True),
        ({"mean": 100.0, "low": None, "high": None}, 130.0, False),
        ({"mean": 100.0, "low": 60.0, "high": 140.0}, 130.0, True),
        ({"mean": -100.0, "low": None, "high": None}, -90.0, True),
    ],
)
def test_a_prediction_holds_if_it_is_close_or_its_interval_covers(
    predicted: dict[str, float | None], real: float, holds: bool
) -> None:
    table = importlib.import_module("benchmarks.refinement.refined_table")
    row = {"predicted_return": predicted, "real_mean": real}
    assert table.prediction_holds(row) is holds


def known_ends() -> list[tuple[str, str]]:
    return [(name, task.termination) for name, task in TASKS.items() if task.termination]


@pytest.mark.parametrize(("env_id", "name"), known_ends())
def test_known_terminations_are_those_of_reality(env_id: str, name: str) -> None:
    module, _, function = name.partition(":")
    ends = getattr(importlib.import_module(module), function)
    env = gym.make(env_id)
    env.action_space.seed(0)
    fallen = 0
    for seed in range(5):
        before, _ = env.reset(seed=seed)
        for _ in range(200):
            action = env.action_space.sample()
            after, _, terminated, _, _ = env.step(action)
            said = ends(before[None], action[None], after[None])
            assert bool(said[0]) is terminated
            before = after
            if terminated:
                fallen += 1
                break
    assert fallen
