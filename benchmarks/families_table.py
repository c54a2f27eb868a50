"""The table of families.py, for tables.py."""

from __future__ import annotations

import statistics

NOTHING = "Nothing was measured yet: `benchmarks/results/families.json` does not exist."
WORLDS = ("Pendulum-v1", "Pendulum-v1 without velocity")
FAMILIES = {"ensemble": "ensemble", "rssm": "recurrent (rssm)"}
SEEDS = (0, 1, 2)


def families_section(tree: dict | None) -> str:
    """The Markdown between the `families` markers."""
    if tree is None:
        return NOTHING
    rows = tree["rows"]
    steps = sorted({part["step"] for row in rows for part in row["errors"]})
    lines = [
        f"| world | family | {' | '.join(f'step {step}' for step in steps)} | reward, mean error | seconds | seeds |",
        f"|---|---|{'---|' * (len(steps) + 3)}",
    ]
    for world in WORLDS:
        here = [row for row in rows if row["task"] == world]
        for family, name in FAMILIES.items():
            mine = [row for row in here if row["family"] == family]
            if mine:
                lines.append(_line(world, name, mine, steps))
        if here:
            still = [_over(here, step, "hold_last") for step in steps]
            lines.append(f"| {world} | nothing moves | {' | '.join(still)} | - | - | - |")
    missing = _missing(rows)
    commits = ", ".join(sorted({f"`{row['commit'][:8]}`" for row in rows}))
    end = [f"Made at {commits} on {tree['machine']}."]
    return "\n".join(
        [*lines, "", *([f"Not measured yet: {missing}.", ""] if missing else []), *end]
    )


def _line(world: str, name: str, rows: list[dict], steps: list[int]) -> str:
    errors = " | ".join(_over(rows, step, "error") for step in steps)
    reward, seconds = (
        statistics.fmean(row[part] for row in rows) for part in ("reward_error", "seconds")
    )
    seeds = ", ".join(str(row["seed"]) for row in sorted(rows, key=lambda row: row["seed"]))
    return f"| {world} | {name} | {errors} | {reward:.3f} | {seconds:.0f} | {seeds} |"


def _over(rows: list[dict], step: int, part: str) -> str:
    """Mean over rows of what is known at a step."""
    known = [each[part] for row in rows for each in row["errors"] if each["step"] == step]
    return f"{statistics.fmean(known):.3f}" if known else "-"


def _missing(rows: list[dict]) -> str:
    there = {(row["task"], row["family"], row["seed"]) for row in rows}
    gaps = [
        f"{world}, {name} ({', '.join(map(str, left))})"
        for world in WORLDS
        for family, name in FAMILIES.items()
        if (left := [seed for seed in SEEDS if (world, family, seed) not in there])
    ]
    return "; ".join(gaps)
