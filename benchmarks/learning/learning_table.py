"""Table of learn_table.json for tables.py."""

from __future__ import annotations

import json

from benchmarks.markdown import by_seed, commits, grouped, mean_of, paragraphs, source, table
from world_env.types import JSON

PLACES = {"learned": "twin", "real": "real environment"}


def learn_table_section(tree: JSON) -> str:
    """Real return and time by PPO setting, the best first."""
    found = grouped(
        tree["rows"],
        lambda row: (
            row["task"],
            row["world"],
            row["steps"],
            row["setting"],
            json.dumps(row["change"]),
        ),
    )
    order = list(dict.fromkeys(key[0] for key in found))
    lines = []
    for (task, world, steps, setting, change), rows in sorted(
        found.items(), key=lambda item: (order.index(item[0][0]), -mean_of(item[1]))
    ):
        shown = setting if change == "{}" else f"{setting}, `{change}`"
        costs = [f"{mean_of(rows, name):.0f}" for name in ("seconds", "environment_seconds")]
        where = [task, PLACES[world], f"{steps:,}", shown]
        lines.append([*where, by_seed(rows), f"{mean_of(rows):,.1f}", *costs, commits(rows)])
    header = ["task", "trained in", "steps", "setting", "real return by seed", "mean"]
    return paragraphs(
        table([*header, "seconds", "seconds of env steps", "commits"], lines), source(tree)
    )
