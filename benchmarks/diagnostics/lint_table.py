"""Table of lint.json for tables.py."""

from __future__ import annotations

from collections import Counter

from benchmarks.markdown import NOT_MEASURED, commits, grouped, paragraphs, source, table
from world_env.types import JSON


def lint_section(tree: JSON | None) -> str:
    """Number of seeds in which each planted fault was found; other checks that reported an issue."""
    if tree is None:
        return NOT_MEASURED
    rows = tree["rows"]
    planted = [row for row in rows if row["fault"] != "clean"]
    clean = [row for row in rows if row["fault"] == "clean"]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    found = grouped(planted, lambda row: (row["fault"], row["task"]))
    others: dict[str, Counter[str]] = {}
    for row in rows:
        if row["other_findings"]:
            others.setdefault(row["fault"], Counter()).update(row["other_findings"])
    return paragraphs(
        f"**{sum(row['found'] for row in planted)} of {len(planted)} planted faults found; "
        f"{sum(not row['found'] for row in clean)} of {len(clean)} clean datasets without an error or a warning.** "
        f"{_data(rows)} {source(tree, commits(rows))}",
        table(
            ["fault", *tasks],
            [
                [f"`{fault}`", *(_share(found.get((fault, task), [])) for task in tasks)]
                for fault in dict.fromkeys(row["fault"] for row in planted)
            ],
        ),
        "Other checks that reported an issue (times): "
        + "; ".join(
            f"`{fault}`: " + ", ".join(f"{name} ({n})" for name, n in sorted(counts.items()))
            for fault, counts in others.items()
        )
        + "."
        if others
        else "",
    )


def _share(rows: list[JSON]) -> str:
    """Empty if the data cannot hold the fault."""
    if not rows:
        return ""
    found = sum(row["found"] for row in rows)
    return f"{found} of {len(rows)}" if found == len(rows) else f"**{found} of {len(rows)}**"


def _data(rows: list[JSON]) -> str:
    seeds = sorted({row["seed"] for row in rows})
    steps = [row["steps"] for row in rows]
    return f"Seeds {', '.join(map(str, seeds))}; {min(steps):,} to {max(steps):,} steps."
