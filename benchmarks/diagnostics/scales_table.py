"""Table of scales.json for tables.py."""

from __future__ import annotations

import statistics

from benchmarks.markdown import commits, paragraphs, source, table
from world_env.types import JSON

KINDS = ("ordinary", "spiking")
MIN_SEEDS = 3
"""Fewer seeds give no verdict."""


def scales_section(tree: JSON) -> str:
    """Errors of both scalings by task and kind of column, one column a horizon."""
    rows = tree["rows"]
    horizons = sorted({part["horizon"] for row in rows for part in row["errors"]})
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        here = [row for row in rows if row["task"] == task]
        for kind in KINDS:
            cells = [_cell(here, kind, horizon) for horizon in horizons]
            if any(cells):
                lines.append([task, f"{max(row['columns'][kind] for row in here)} {kind}", *cells])
    header = ["task", "columns", *(f"step {horizon}" for horizon in horizons)]
    updates = " / ".join(f"{value:,}" for value in sorted({row["gradient_steps"] for row in rows}))
    return paragraphs(
        table(header, lines), f"Fits of {updates} gradient steps. {source(tree, commits(rows))}"
    )


def _cell(rows: list[JSON], kind: str, horizon: int) -> str:
    """Cell such as "0.80 -> 0.79 (better)"; empty if the kind was not measured at this horizon."""
    errors = {
        scaling: {
            row["seed"]: part[kind]
            for row in rows
            if row["scaling"] == scaling
            for part in row["errors"]
            if part["horizon"] == horizon and part[kind] is not None
        }
        for scaling in ("before", "after")
    }
    if not errors["before"] and not errors["after"]:
        return ""
    both = sorted(set(errors["before"]) & set(errors["after"]))
    # Both are divided by the same constant prediction, which is 0 if the column did not spike in any window.
    ratios = [errors["after"][seed]["error"] / errors["before"][seed]["error"] for seed in both]
    return f"{_mean(errors['before'])} -> {_mean(errors['after'])} ({_verdict(ratios)})"


def _mean(errors: dict[int, JSON]) -> str:
    known = [part["relative"] for part in errors.values() if part["relative"] is not None]
    return f"{statistics.fmean(known):.3f}" if known else "-"


def _verdict(ratios: list[float]) -> str:
    """A verdict only if all seeds agree in the two decimals that are shown."""
    if len(ratios) < MIN_SEEDS:
        return "too few seeds"
    shown = [round(ratio, 2) for ratio in ratios]
    if set(shown) == {1.0}:
        return "the same"
    if max(shown) < 1:
        return "better"
    return "**worse**" if min(shown) > 1 else "no clear change"
