"""The README tells the truth: its Python runs, its commands exist, its tables are not stale."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from command_lines import parse

import world_env
from training.tasks import TASKS, real_of
from world_env import Twin, list_twins
from world_env.bundled_twins import DEFAULT_TWIN
from world_env.real.real_env import spec_of

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)
PRINTED = re.findall(r"^```text\n(.*?)^```$", README, re.M | re.S)
SHELL = "\n".join(re.findall(r"^```sh\n(.*?)^```$", README, re.M | re.S))
COMMANDS = [
    line for line in SHELL.replace("\\\n", " ").splitlines() if line.startswith("world-env")
]
REAL_IDS = {task.twin: real_id for real_id, task in TASKS.items()}
DEFAULT_ID = '"WorldModel-v0"'


def stand_in(block: str, bundled: list[str], folder: Path) -> str:
    """The block with untrained twins, saved in `folder`, instead of named ones that are not bundled."""
    for name, real_id in REAL_IDS.items():
        default = name == DEFAULT_TWIN and DEFAULT_ID in block
        if name in bundled or not (default or f'"{name}"' in block):
            continue
        path = json.dumps(str(Twin.untrained(spec_of(real_of(real_id))).save(folder / name)))
        block = block.replace(f'"{name}"', path)
        if default:
            block = block.replace(DEFAULT_ID, f"{DEFAULT_ID}, twin={path}")
    return block


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_blocks_run(
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    bundled = list_twins()
    block = stand_in(BLOCKS[number], bundled, tmp_path / "twins")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        exec(compile(block, f"README.md, block {number}", "exec"), {"__name__": "readme"})
    finally:
        torch.set_num_threads(threads)
    if (printed := capsys.readouterr().out) and bundled:
        assert printed.strip() in [text.strip() for text in PRINTED], printed


def test_a_twin_is_stepped_in_six_lines() -> None:
    (block,) = (block for block in BLOCKS if "gym.make(" in block)
    assert len([line for line in block.splitlines() if line]) <= 6 and ".step(" in block


def test_it_is_short_and_uses_public_names_only() -> None:
    assert len(README.splitlines()) <= 150
    code = "\n".join(BLOCKS)
    assert not re.search(r"from world_env\.|import world_env\.", code)
    assert set(re.findall(r"\bworld_env\.(\w+)", README)) <= set(world_env.__all__)


def test_every_file_that_it_names_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_missing_twins_are_replaced(tmp_path: Path) -> None:
    block = f'gym.make({DEFAULT_ID})\nWorldModelVecEnv("pendulum", 64)\n'
    path = json.dumps(str((tmp_path / "pendulum").resolve()))
    assert stand_in(block, list(REAL_IDS), tmp_path) == block
    replaced = stand_in(block, [DEFAULT_TWIN], tmp_path)
    assert replaced == block.replace('"pendulum"', path)
    assert f"gym.make({DEFAULT_ID}, twin=" in stand_in(block, [], tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_stages_with_those_arguments(command: str) -> None:
    words = shlex.split(command, comments=True)
    assert parse(words[1:]) == words[1]


@pytest.mark.parametrize(
    "command", ["polish", "fit --data x --out y --no-such-flag 1", "fit --data x"]
)
def test_a_wrong_command_is_noticed(command: str) -> None:
    with pytest.raises(SystemExit):
        parse(command.split())


def test_make_targets_are_named_and_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([\w-]+)", SHELL, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
    assert "make demo" in SHELL and "make test" in SHELL


def tables(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.tables", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_tables_are_not_stale() -> None:
    done = tables("--check")
    assert done.returncode == 0, done.stderr


PAGES = [*(f"docs/results/{path.name}" for path in (ROOT / "docs/results").glob("*.md"))]


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """A folder with copies of all pages with tables; its README has an empty results table."""
    (tmp_path / "docs/results").mkdir(parents=True)
    for page in PAGES:
        (tmp_path / page).write_text((ROOT / page).read_text("utf-8"), "utf-8")
    begin, end = "<!-- results:begin -->", "<!-- results:end -->"
    (tmp_path / "README.md").write_text(f"# Title\n\n{begin}\n{end}\n", "utf-8")
    assert tables("--pages", tmp_path).returncode == 0
    return tmp_path


@pytest.mark.parametrize(
    ("page", "name"), [("README.md", "results"), ("docs/results/returns.md", "tuning")]
)
def test_a_stale_table_is_noticed(page: str, name: str, pages: Path) -> None:
    assert tables("--check", "--pages", pages).returncode == 0
    end = f"<!-- {name}:end -->"
    current = (pages / page).read_text("utf-8")
    (pages / page).write_text(current.replace(end, f"999\n{end}"), "utf-8")
    done = tables("--check", "--pages", pages)
    assert done.returncode == 1 and f"{page} is stale" in done.stderr
    assert tables("--pages", pages).returncode == 0
    assert (pages / page).read_text("utf-8") == current


def test_a_readme_without_the_table_has_nothing_to_check(pages: Path) -> None:
    (pages / "README.md").write_text("# Title\n", "utf-8")
    assert tables("--pages", pages).returncode == 0
    assert tables("--check", "--pages", pages).returncode == 0
    assert (pages / "README.md").read_text("utf-8") == "# Title\n"


def test_a_page_without_its_marker_is_refused(pages: Path) -> None:
    page = pages / "docs/results/returns.md"
    page.write_text(page.read_text("utf-8").replace("<!-- tuning:end -->", ""), "utf-8")
    done = tables("--check", "--pages", pages)
    assert done.returncode == 1 and "expected exactly one <!-- tuning:begin -->" in done.stderr


def test_results_pages_are_at_most_two_screens(generator: ModuleType) -> None:
    assert {*PAGES, "README.md"} == set(generator.PAGES)
    for page in PAGES:
        assert len((ROOT / page).read_text("utf-8").splitlines()) <= 120, page


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    return importlib.import_module("benchmarks.tables")


def results(returns: list[float], *, real_steps: int = 2_000) -> dict[str, Any]:
    rows = [
        {
            "task": "CartPole-v1",
            "policy": "ppo_twin",
            "seed": seed,
            "final": True,
            "real_steps": real_steps,
            "real_steps_by_purpose": {"collect": real_steps, "judge": 50_000 + 10 * seed},
            "real_mean": value,
            "learned_mean": value + 5.0,
            "episodes": 100,
        }
        for seed, value in enumerate(returns)
    ]
    head = {
        "commit": "0" * 40,
        "date": "2026-01-31",
        "machine": "x86_64",
        "command": "python x.py --y",
    }
    cell = {"task": "CartPole-v1", "commit": "1" * 40, "date": "2026-01-30"}
    return head | {"rows": rows, "cells": [cell | {"seed": seed} for seed in range(len(returns))]}


def test_the_table_shows_the_interval_the_seeds_and_the_return_gap(generator: ModuleType) -> None:
    tree = results([496.0, 498.0, 500.0, 500.0, 500.0])
    text = generator.returns_table.returns_section(tree)
    # By hand: standard deviation 1.789, t(4) = 2.776, half width 2.22.
    assert "| 2,000 | 50,020 | 5 | 498.8 [496.6, 501.0] | 496.0 to 500.0 | +5.0 |" in text
    assert (
        "Measured at `111111111111` (2026-01-30: CartPole-v1) on x86_64 by `python x.py`." in text
    )
    goals = generator.returns_table.goals_section(tree)
    assert "| 2,000 | 496.0 | 2,000 | met |" in goals
    assert "| 1,000 | 496.0 | 2,000 | not measured with so few steps |" in goals


@pytest.mark.parametrize(
    ("returns", "steps", "verdict"),
    [
        ([500.0, 500.0, 494.0, 500.0, 500.0], 2_000, "**missed**"),
        ([500.0] * 5, 2_001, "met"),  # one step checks the environment
        ([500.0] * 5, 2_002, "not measured with so few steps"),
        ([500.0] * 4, 2_000, "not measured"),
    ],
)
def test_a_goal_is_met_only_by_all_seeds_within_its_steps(
    generator: ModuleType, returns: list[float], steps: int, verdict: str
) -> None:
    text = generator.returns_table.goals_section(results(returns, real_steps=steps))
    (goal,) = (
        line for line in text.splitlines() if "lowest seed" in line and "(stretch)" not in line
    )
    assert goal.endswith(f"| {verdict} |")


def test_missing_cells_are_named(generator: ModuleType, tmp_path: Path) -> None:
    text = generator.returns_table.returns_section(results([500.0] * 3))
    assert "- CartPole-v1, PPO trained only in the twin: seeds 3, 4" in text
    assert "- Acrobot-v1, all policies: seeds 0, 1, 2, 3, 4" in text
    missing = generator.PAGES["docs/results/returns.md"]["returns"].text(tmp_path)
    assert missing.startswith("Not measured yet.") and "returns.json` does not exist" in missing


def refined(policy: str, returns: list[float], real_steps: int, change: Any = None) -> list[Any]:
    row = {"task": "Hopper-v5", "policy": policy, "real_steps": real_steps, "change": change or {}}
    made = {"commit": "2" * 40}
    return [row | made | {"seed": seed, "real_mean": value} for seed, value in enumerate(returns)]


def test_the_summary_has_one_row_a_task_and_the_best_baseline(generator: ModuleType) -> None:
    rows = refined("ppo_twin", [1_000.0, 2_000.0, 3_000.0], 100_000)
    rows += refined("ppo_real_long", [400.0, 500.0, 600.0], 1_000_000)
    rows += refined("ppo_real_long_few", [900.0, 1_000.0, 1_100.0], 1_006_000)
    rows += refined("sac_real_same_steps", [50.0], 100_000) + refined("random", [1.0] * 3, 0)
    rows += refined("ppo_twin", [9_000.0] * 3, 100_000, {"rounds": 9})
    text = generator.returns_table.summary_section(results([500.0] * 5), {"rows": rows})
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert [line.split(" | ")[0].strip("| ") for line in lines] == [
        *("CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0"),
        *("Pendulum-v1-pixels", "Hopper-v5", "HalfCheetah-v5", "InvertedDoublePendulum-v5"),
    ]
    # By hand: standard deviation 1,000, t(2) = 4.303, half width 2,484.
    assert lines[5] == (
        "| Hopper-v5 | 100,000 |  | PPO: 2,000 [-484, 4,484] (3 seeds) | not measured | 50 (1 seed) "
        "| 1,000 (1,006,000 steps) | 1 |"
    )
    assert "| 2,000 | 50,020 | PPO: 500.0 [500.0, 500.0] (5 seeds) |" in lines[0]
    assert (
        "Commits `11111111`, `22222222`; x86_64;" in text and "[docs/results](docs/results)" in text
    )


def test_the_summary_of_the_stored_results_has_at_most_ten_rows(generator: ModuleType) -> None:
    section = generator.PAGES["README.md"]["results"]
    text = section.text(ROOT / "benchmarks" / "results")
    assert 8 <= sum(line.startswith("| ") for line in text.splitlines()) - 2 <= 10


def test_a_row_with_another_number_of_cells_is_refused() -> None:
    markdown = importlib.import_module("benchmarks.markdown")
    assert markdown.table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert markdown.table(["a"], []) == ""
    with pytest.raises(ValueError, match="1 cells, expected 2"):
        markdown.table(["a", "b"], [["1"]])
