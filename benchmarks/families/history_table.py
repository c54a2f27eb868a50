"""Table of history.json for tables.py."""

from __future__ import annotations

from benchmarks.markdown import NOT_MEASURED, commits, grouped, mean_of, paragraphs, source, table
from world_env.types import JSON


def history_section(tree: JSON | None) -> str:
    """One row per task and history: errors and durations, means over seeds."""
    if tree is None:
        return NOT_MEASURED
    rows = tree["rows"]
    found = grouped(rows, lambda row: (row["task"], row["history"]))
    steps = sorted({part["step"] for row in rows for part in row["errors"]})
    lines = []
    for (task, history), of in sorted(found.items()):
        errors = [_mean(of, step, "error") for step in steps]
        numbers = [f"{mean_of(of, name):.3f}" for name in ("open_loop", "reward_error")]
        seconds = f"{mean_of(of, 'seconds'):.0f}"
        lines.append([task, str(history), *errors, *numbers, seconds, str(len(of))])
    header = ["environment", "history", *(f"error, step {step}" for step in steps)]
    header += ["open-loop error (0 to 1)", "reward error", "seconds of a fit", "seeds"]
    return paragraphs(table(header, lines), source(tree, commits(rows)))


def _mean(rows: list[JSON], step: int, name: str) -> str:
    values = [part[name] for row in rows for part in row["errors"] if part["step"] == step]
    return f"{sum(values) / len(values):.3f}" if values else "-"
