"""Table of misses.json for tables.py."""

from __future__ import annotations

from benchmarks.markdown import grouped, mean_of, paragraphs, source, table
from world_env.types import JSON

THRESHOLD = 0.2
"""Mean real reward a step that divides the policies of the table."""
SHOWN = {
    "turned": ".0%",
    "change": ".2f",
    "miss": "+.3f",
    "miss_rms": ".3f",
    "reward": "+.2f",
    "reward_miss": "+.3f",
}
"""Field -> format."""
PLACES = {"reality": "in the real environment", "twin": "in the twin"}


def misses_section(tree: JSON) -> str:
    """Means over policies and twins, by training place and by reward."""
    found = grouped(
        tree["rows"], lambda row: (row["task"], row["trained_in"], row["reward"] >= THRESHOLD)
    )
    lines = []
    for (task, place, more), rows in sorted(found.items()):
        policies = len({(row["policy"], row["seed"] if place == "twin" else 0) for row in rows})
        kind = f"{policies} trained {PLACES[place]}, {'more' if more else 'less'} than {THRESHOLD} a step"
        lines.append(
            [task, kind, *(f"{mean_of(rows, name):{form}}" for name, form in SHOWN.items())]
        )
    header = ["task", "policies by reward", "sign changes of actions", "change a step"]
    header += ["one-step error: mean", "root mean square", "reward a step", "reward error"]
    steps = f"{sum(tree['real_steps'].values()):,} real steps, not counted for any twin."
    return paragraphs(table(header, lines), f"{source(tree)} {steps}")
