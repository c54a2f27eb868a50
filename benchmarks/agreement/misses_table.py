"""The table of misses.py, for tables.py."""

from __future__ import annotations

import statistics

NOTHING = "Nothing was measured yet: `benchmarks/results/misses.json` does not exist."
ENOUGH = 0.2
"""Mean real reward of a step that divides the policies of a table."""
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
            for much in (False, True):
                rows = [
                    row
                    for row in tree["rows"]
                    if (row["task"], row["trained_in"]) == (task, place)
                    and (row["reward"] >= ENOUGH) is much
                ]
                if rows:
                    lines.append(_line(task, place, much, rows))
    seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in tree["rows"]}))
    return "\n".join(
        [
            *lines,
            "",
            f"Means over the policies and over the twins of seeds {seeds}. Made at `{tree['commit'][:12]}` by "
            f"`{tree['command']}`; {sum(tree['real_steps'].values()):,} real steps, of no twin.",
        ]
    )


def _line(task: str, place: str, much: bool, rows: list[dict]) -> str:
    mean = {name: statistics.fmean(row[name] for row in rows) for name in SHOWN}
    names = len({(row["policy"], row["seed"] if place == "twin" else 0) for row in rows})
    which = f"trained in {'reality' if place == 'reality' else 'the twin'}, {'more' if much else 'less'}"
    return (
        f"| {task} | {names} {which} than {ENOUGH} a step | {mean['turned']:.0%} | {mean['change']:.2f} "
        f"| {mean['miss']:+.3f} | {mean['miss_rms']:.3f} | {mean['reward']:+.2f} | {mean['reward_miss']:+.3f} |"
    )
