"""Table of toy_text.json for tables.py."""

from __future__ import annotations

from benchmarks.markdown import NOT_MEASURED, commits, grouped, paragraphs, source, table, verdict
from world_env.types import JSON

GOALS = {"FrozenLake-v1": 0.70, "CliffWalking-v1": -13.0, "Taxi-v4": 7.0}
"""Task -> lowest mean real return, in every seed, of the policy that was trained in the twin."""
MAX_GAP = {"FrozenLake-v1": 0.1}
"""Task -> largest return gap of the optimal policy, in every seed."""


def toy_text_section(tree: JSON | None) -> str:
    """One row per cell, and whether every seed meets the goals."""
    if tree is None:
        return NOT_MEASURED
    rows = sorted(tree["rows"], key=lambda row: (list(GOALS).index(row["task"]), row["seed"]))
    return paragraphs(
        table(
            [
                "task",
                "seed",
                "real steps of the data",
                "judging steps",
                "random, real return",
                "policy of the twin, real return",
                "its return gap",
                "optimal policy, real return",
                "its return gap",
            ],
            [_cells(row) for row in rows],
        ),
        table(
            ["task", "goal in every seed", "worst seed", "verdict"],
            [
                line
                for (task,), cells in grouped(rows, lambda row: (row["task"],)).items()
                for line in _goals(task, cells)
            ],
        ),
        source(tree, commits(rows)),
    )


def _cells(row: JSON) -> list[str]:
    policy, optimal = row["policy"], row["optimal"]
    return [
        row["task"],
        str(row["seed"]),
        f"{row['steps']:,}",
        f"{row['real_steps_by_purpose'].get('judge', 0):,}",
        f"{row['random']['real_mean']:.2f}",
        f"{policy['real_mean']:.2f}",
        f"{policy['learned_mean'] - policy['real_mean']:+.2f}",
        f"{optimal['real_mean']:.3f}",
        f"{optimal['learned_mean'] - optimal['real_mean']:+.3f}",
    ]


def _goals(task: str, rows: list[JSON]) -> list[list[str]]:
    worst = min(row["policy"]["real_mean"] for row in rows)
    goal = GOALS[task]
    text = f"real return of the policy >= {goal:g}"
    lines = [[task, text, f"{worst:.2f}", verdict(worst >= goal)]]
    if task in MAX_GAP:
        gaps = [abs(r["optimal"]["learned_mean"] - r["optimal"]["real_mean"]) for r in rows]
        text = f"absolute return gap of the optimal policy <= {MAX_GAP[task]:g}"
        lines.append([task, text, f"{max(gaps):.3f}", verdict(max(gaps) <= MAX_GAP[task])])
    return lines
