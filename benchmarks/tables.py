"""The tables of both READMEs, generated from benchmarks/results/*.json: no number in them is typed by hand.

    python -m benchmarks.tables            write them
    python -m benchmarks.tables --check    exit 1 when one is stale

A cell that was not measured is named as missing, never left out silently.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import t as student_t

from benchmarks.agreement.agreement_tables import agreement_section
from benchmarks.agreement.misses_table import misses_section
from benchmarks.diagnostics.alarm_table import alarm_section
from benchmarks.diagnostics.lint_table import lint_section
from benchmarks.diagnostics.scales_table import scales_section
from benchmarks.families.families_table import families_section, one_frame_section
from benchmarks.refinement.refined_table import refined_section, refined_summary
from benchmarks.speed.speed_tables import (
    fit_section,
    gpu_section,
    held_section,
    image_section,
    learn_section,
    parts_section,
    ppo_section,
    steps_section,
    uncertainty_section,
)

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2, 3, 4)
FEWER_SEEDS = {"Pendulum-v1-pixels": (0, 1, 2)}
"""Tasks whose cells take hours."""
ON_TOP = {
    "Pendulum-v1-pixels": "Policies act on latents of the cell's twin; in reality its real steps come on top."
}
"""What a task's table has to say of its real steps."""
POLICIES = {
    "ppo_twin": "PPO, only in the twin",
    "random": "random",
    "ppo_real_same_steps": "PPO in reality, same steps",
    "offpolicy_real_same_steps": "off-policy in reality, same steps",
    "ppo_real_many_steps": "PPO in reality, many steps",
}
"""Value in the results file -> words, in the order of the table's rows."""


@dataclass(frozen=True)
class Goal:
    """What we set out to reach on a task before measuring it.

    statistic: "every seed" (the lowest seed's mean), "mean" (over seeds), "paired" (the lower 95 % end over seeds of
    the difference to a reference policy trained in reality), or "share" (of the way from random policies to PPO with
    many real steps, means over seeds).
    level: the smallest value that meets it. real_steps: the most real steps that it may cost.
    against: the reference of a "paired" goal.
    """

    statistic: str
    level: float
    real_steps: int
    against: str = ""


_FIRST, _SAC = "SAC in reality, 10000 steps", "SAC in reality, 20000 steps"
"""The reference of the first judging, and the longer one that was added when a seed of it had not learned."""
GOALS: dict[str, tuple[Goal, ...]] = {
    "CartPole-v1": (Goal("every seed", 495.0, 2_000), Goal("every seed", 495.0, 1_000)),
    "Pendulum-v1": (
        Goal("paired", -10.0, 3_000, _FIRST),
        Goal("paired", -10.0, 3_000, _SAC),
        Goal("paired", -10.0, 2_000, _SAC),
    ),
    "Acrobot-v1": (Goal("mean", -80.0, 20_000), Goal("mean", -75.0, 10_000)),
    "MountainCarContinuous-v0": (Goal("mean", 88.0, 5_000), Goal("mean", 90.0, 2_000)),
    "Pendulum-v1-pixels": (Goal("share", 0.95, 100_000), Goal("share", 1.0, 20_000)),
}
"""Task -> the goals, the stretch goal last."""

_STATISTICS = {
    "every seed": "lowest seed",
    "mean": "mean over seeds",
    "paired": "paired difference to {}, lower 95 % end",
    "share": "share of the way from random to PPO in reality with many steps",
}


def seeds_of(task: str) -> tuple[int, ...]:
    """Seeds that a task is judged on."""
    return FEWER_SEEDS.get(task, SEEDS)


def interval(values: list[float]) -> tuple[float, float] | None:
    """The 95 % t-interval of the mean over seeds; None below two seeds."""
    if len(values) < 2:
        return None
    half = student_t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    middle = statistics.fmean(values)
    return middle - half, middle + half


def returns_section(tree: dict | None) -> str:
    """The Markdown between the `returns` markers."""
    if tree is None:
        cells = sum(len(seeds_of(task)) for task in GOALS)
        return (
            "Not measured yet: `benchmarks/results/returns.json` does not exist. Missing are all "
            f"{cells} cells ({', '.join(GOALS)}). The goals:\n\n" + _goals_table([], [])
        )
    rows = [row for row in tree["rows"] if row["final"] and row["seed"] in SEEDS]
    pairs = [pair for pair in tree.get("pairs", []) if pair["seed"] in SEEDS]
    parts = [
        _task_table(task, here)
        for task in GOALS
        if (here := [row for row in rows if row["task"] == task])
    ]
    parts += [_pairs_table(pairs), _goals_table(rows, pairs), _missing(rows)]
    judged = sorted({row["episodes"] for row in rows})
    parts.append(
        f"Every value is the mean over {' or '.join(map(str, judged)) or 'no'} judged real episodes of one seed. "
        f"Made at {_commits(tree)}, on {tree['machine']}, by `{tree['command'].partition(' --')[0]}`."
    )
    return "\n\n".join(part for part in parts if part)


def _commits(tree: dict) -> str:
    """Which commit made which task's cells, and when."""
    found: dict[str, set[str]] = {}
    for cell in tree["cells"]:
        found.setdefault(cell["task"], set()).add(f"`{cell['commit'][:12]}` ({cell['date']})")
    return "; ".join(f"{', '.join(sorted(made))} for {task}" for task, made in found.items())


def _task_table(task: str, rows: list[dict]) -> str:
    lines = [
        f"**{task}**\n",
        "| policy | real steps | real return, mean [95 %] | seed by seed | promise |",
        "|---|---|---|---|---|",
    ]
    for policy, words in POLICIES.items():
        found = sorted((row for row in rows if row["policy"] == policy), key=lambda r: r["seed"])
        if not found:
            lines.append(f"| {words} | | not measured | | |")
            continue
        values = [row["real_mean"] for row in found]
        promise = statistics.fmean(row["learned_mean"] - row["real_mean"] for row in found)
        steps = " / ".join(f"{count:,}" for count in sorted({row["real_steps"] for row in found}))
        each = ", ".join(f"{row['seed']}: {row['real_mean']:.1f}" for row in found)
        lines.append(f"| {words} | {steps} | {_mean(values)} | {each} | {promise:+.1f} |")
    if task in ON_TOP:
        lines += ["", ON_TOP[task]]
    return "\n".join(lines)


def _mean(values: list[float]) -> str:
    ends = interval(values)
    shown = "one seed" if ends is None else f"{ends[0]:.1f}, {ends[1]:.1f}"
    return f"{statistics.fmean(values):.1f} [{shown}]"


def _pairs_table(pairs: list[dict]) -> str:
    if not pairs:
        return ""
    lines = [
        "**PPO in the twin minus a reference trained long in reality, on the same reset seeds**\n",
        "| task | against | difference, mean [95 %] | seed by seed |",
        "|---|---|---|---|",
    ]
    for task, against in sorted({(pair["task"], pair["against"]) for pair in pairs}):
        found = [pair for pair in pairs if (pair["task"], pair["against"]) == (task, against)]
        found.sort(key=lambda pair: pair["seed"])
        each = ", ".join(f"{pair['seed']}: {pair['difference']:+.1f}" for pair in found)
        mean = _mean([pair["difference"] for pair in found])
        lines.append(f"| {task} | {against} | {mean} | {each} |")
    return "\n".join(lines)


def _goals_table(rows: list[dict], pairs: list[dict]) -> str:
    lines = [
        "| task | goal | within real steps | measured | real steps spent | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for task, goals in GOALS.items():
        here = [row for row in rows if row["task"] == task]
        twin = [row for row in here if row["policy"] == "ppo_twin"]
        for number, goal in enumerate(goals):
            value = _measured(goal, task, here, [pair for pair in pairs if pair["task"] == task])
            spent = max((row["real_steps"] for row in twin), default=None)
            words = _STATISTICS[goal.statistic].format(goal.against)
            name = f"{words} >= {goal.level:g}" + " (stretch)" * (number == len(goals) - 1)
            lines.append(
                f"| {task} | {name} | {goal.real_steps:,} | {_shown(goal, value)} | "
                f"{'' if spent is None else f'{spent:,}'} | {_verdict(goal, value, spent)} |"
            )
    return "\n".join(lines)


def _shown(goal: Goal, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if goal.statistic == "share" else f"{value:.1f}"


def _measured(goal: Goal, task: str, rows: list[dict], pairs: list[dict]) -> float | None:
    """The goal's statistic; None until every seed is there. rows: of the task."""
    wanted = set(seeds_of(task))
    of: dict[str, dict[int, float]] = {policy: {} for policy in POLICIES}
    for row in rows:
        if row["seed"] in wanted:
            of[row["policy"]][row["seed"]] = row["real_mean"]
    values = of["ppo_twin"]
    if not wanted <= set(values):
        return None
    if goal.statistic == "paired":
        pairs = [pair for pair in pairs if pair["against"] == goal.against]
        if not wanted <= {pair["seed"] for pair in pairs}:
            return None
        ends = interval([pair["difference"] for pair in pairs])
        return None if ends is None else ends[0]
    if goal.statistic == "share":
        if not wanted <= set(of["random"]) & set(of["ppo_real_many_steps"]):
            return None
        nothing, bar, mean = (
            statistics.fmean(of[name].values())
            for name in ("random", "ppo_real_many_steps", "ppo_twin")
        )
        return (mean - nothing) / (bar - nothing)
    return (
        min(values.values())
        if goal.statistic == "every seed"
        else statistics.fmean(values.values())
    )


def _verdict(goal: Goal, value: float | None, spent: int | None) -> str:
    if value is None or spent is None:
        return "not measured"
    if spent > goal.real_steps:
        return "not tried with so few steps"
    return "met" if value >= goal.level else "**missed**"


def _missing(rows: list[dict]) -> str:
    found = {(row["task"], row["policy"], row["seed"]) for row in rows}
    lines = []
    for task in GOALS:
        gaps = {
            policy: [seed for seed in seeds_of(task) if (task, policy, seed) not in found]
            for policy in POLICIES
        }
        shared = list(gaps.values())
        if shared[0] and all(seeds == shared[0] for seeds in shared):
            lines.append(f"- {task}, all policies: seeds {', '.join(map(str, shared[0]))}")
            continue
        for policy, seeds in gaps.items():
            if seeds:
                lines.append(f"- {task}, {POLICIES[policy]}: seeds {', '.join(map(str, seeds))}")
    return "Missing cells:\n\n" + "\n".join(lines) if lines else ""


def tuning_section(tree: dict | None) -> str:
    """The Markdown between the `tuning` markers: one row a change, all seeds it was tried on."""
    if tree is None:
        return "Nothing was tried yet."
    found: dict[tuple[str, str], list[dict]] = {}
    for row in tree["rows"]:
        found.setdefault((row["task"], json.dumps(row["change"])), []).append(row)
    lines = [
        "| task | change | real return by seed | mean | learned, mean | commit |",
        "|---|---|---|---|---|---|",
    ]
    for (task, change), rows in found.items():
        each = ", ".join(f"{row['seed']}: {row['real_mean']:.1f}" for row in rows)
        real, learned = (
            statistics.fmean(row[f"{side}_mean"] for row in rows) for side in ("real", "learned")
        )
        commits = " ".join(sorted({f"`{row['commit'][:8]}`" for row in rows}))
        shown = "as it stood at the commit" if change == "{}" else f"`{change}`"
        lines.append(f"| {task} | {shown} | {each} | {real:.1f} | {learned:.1f} | {commits} |")
    return "\n".join(lines)


SECTIONS = {
    "README.md": {"returns": returns_section, "refined": refined_summary},
    "benchmarks/README.md": {
        "tuning": tuning_section,
        "steps_per_second": steps_section,
        "image_steps": image_section,
        "gpu": gpu_section,
        "returns_speed": held_section,
        "parts": parts_section,
        "uncertainty": uncertainty_section,
        "alarm": alarm_section,
        "fit_speed": fit_section,
        "ppo_speed": ppo_section,
        "learn_table": learn_section,
        "agreement": agreement_section,
        "misses": misses_section,
        "refined": refined_section,
        "lint": lint_section,
        "scales": scales_section,
        "families": families_section,
        "one_frame": one_frame_section,
    },
}
"""Page -> results file without its ending = name of the page's markers -> what writes the section."""


def render(text: str, sections: dict[str, Callable[[dict | None], str]], results: Path) -> str:
    """A page's text with every section between its markers replaced. Raises ValueError without markers."""
    for name, section in sections.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"expected exactly one {begin} and one {end}")
        path = results / f"{name}.json"
        tree = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        before, _, rest = text.partition(begin)
        after = rest.partition(end)[2]
        text = f"{before}{begin}\n{section(tree)}\n{end}{after}"
    return text


def main() -> int:
    """Write or check; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    parser.add_argument("--pages", type=Path, default=ROOT, help="folder of the pages")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    stale = False
    for name, sections in SECTIONS.items():
        page = arguments.pages / name
        old = page.read_text(encoding="utf-8")
        new = render(old, sections, arguments.results)
        if not arguments.check:
            page.write_text(new, encoding="utf-8")
        elif new != old:
            print(f"{name} is stale: run `python -m benchmarks.tables`", file=sys.stderr)
            stale = True
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
