"""The table of misses.py, for tables.py."""

from __future__ import annotations

import itertools
import statistics

NOTHING = "Nothing was measured yet: `benchmarks/results/misses.json` does not exist."
BOUNDS = (-float("inf"), 0.2, float("inf"))
"""Mean real rewards of a step that divide the policies of a table."""
SHOWN = ("reward", "turned", "change", "miss", "miss_rms", "reward_miss")


def misses_section(tree: dict | None) -> str:
    """The Markdown between the `misses` markers: means over policies and twins, by who trained where and who earns."""
    if tree is None:
        return NOTHING
    lines = [
        "| task | policies | actions turned a step | change a step | miss of one step: mean | root mean square "
        "| reward a step | its miss |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task in dict.fromkeys(row["task"] for row in tree["rows"]):
        for place in ("reality", "twin"):
            for low, high in itertools.pairwise(BOUNDS):
                rows = [
                    row
                    for row in tree["rows"]
                    if (row["task"], row["trained_in"]) == (task, place)
                    and low <= row["reward"] < high
                ]
                if rows:
                    lines.append(_line(task, place, high, rows))
    seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in tree["rows"]}))
    return "\n".join(
        [
            *lines,
            "",
            f"Means over the policies and over the twins of seeds {seeds}. Made at `{tree['commit'][:12]}` by "
            f"`{tree['command']}`; {sum(tree['real_steps'].values()):,} real steps, of no twin.",
        ]
    )


def _line(task: str, place: str, high: float, rows: list[dict]) -> str:
    mean = {name: statistics.fmean(row[name] for row in rows) for name in SHOWN}
    names = len({(row["policy"], row["seed"] if place == "twin" else 0) for row in rows})
    which = "less" if high < float("inf") else "more"
    return (
        f"| {task} | {names} trained in {'reality' if place == 'reality' else 'the twin'}, {which} than "
        f"{BOUNDS[1]} a step | {mean['turned']:.0%} | {mean['change']:.2f} | {mean['miss']:+.3f} "
        f"| {mean['miss_rms']:.3f} | {mean['reward']:+.2f} | {mean['reward_miss']:+.3f} |"
    )
