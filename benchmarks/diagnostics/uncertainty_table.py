"""Table of uncertainty.json for tables.py."""

from __future__ import annotations

from benchmarks.markdown import commits, grouped, paragraphs, source, table
from world_env.types import JSON


def uncertainty_section(tree: JSON) -> str:
    """AUROC by kind of uncertainty, two columns a task."""
    found = {(row["kind"], row["task"]): row for row in tree["rows"]}
    tasks = list(dict.fromkeys(row["task"] for row in tree["rows"]))
    lines = []
    for (kind,) in grouped(tree["rows"], lambda row: (row["kind"],)):
        cells = [_cell(found.get((kind, task)), name) for task in tasks for name in _MEASURES]
        lines.append([kind, *cells])
    header = [f"{task}, {name}" for task in tasks for name in _MEASURES.values()]
    return paragraphs(table(["uncertainty", *header], lines), source(tree, commits(tree["rows"])))


_MEASURES = {"worst_tenth": "worst tenth", "half": "error > 0.5"}


def _cell(row: JSON | None, name: str) -> str:
    return "" if row is None else f"{row[f'auroc_{name}']:.3f} ({row[f'gap_{name}']:+.3f})"
