"""Tables of families.json and one_frame.json for tables.py."""

from __future__ import annotations

import statistics

from benchmarks.markdown import by_seed, commits, grouped, mean_of, paragraphs, source, table
from world_env.types import JSON

FAMILIES = {
    "ensemble": "ensemble",
    "rssm": "recurrent (rssm)",
    "rssm-large": "recurrent, large (rssm-large)",
}
WORLDS = {
    "Pendulum-v1": ("ensemble", "rssm"),
    "Pendulum-v1 without velocity": ("ensemble", "rssm"),
    "Pendulum-v1-pixels": ("rssm", "rssm-large"),
}
"""Environment -> families that support its observations."""
SEEDS = (0, 1, 2)
RANDOM, STATE, ONE_FRAME = "nothing (random)", "the whole state", "what one frame shows"
LATENTS = "real pixels, as latents of the bundled twin"
SIGHTS = {
    RANDOM: "none (random policy)",
    STATE: "full state",
    LATENTS: "real frames, as latents of the bundled twin",
    ONE_FRAME: "content of one frame",
}
"""Value in one_frame.json -> observation of the policy."""


def families_section(tree: JSON) -> str:
    """Open-loop errors and energy scores by environment and family."""
    rows = tree["rows"]
    steps = sorted({part["step"] for row in rows for part in row["errors"]})
    found = grouped(rows, lambda row: (row["task"], row["family"]))
    lines = []
    for world in WORLDS:
        here = [row for row in rows if row["task"] == world]
        for family, name in FAMILIES.items():
            of = found.get((world, family))
            if of:
                means = [f"{mean_of(of, 'reward_error'):.3f}", f"{mean_of(of, 'seconds'):.0f}"]
                lines += [[world, name, *_over(of, steps, "error", "energy"), *means, str(len(of))]]
        if here:
            constant = _over(here, steps, "hold_last", "hold_energy")
            lines.append([world, "constant prediction", *constant, "", "", ""])
    header = ["environment", "family", *(f"step {step}" for step in steps)]
    missing = _missing(rows)
    return paragraphs(
        table([*header, "reward error", "seconds of a fit", "seeds"], lines),
        f"Not measured: {missing}." if missing else "",
        source(tree, commits(rows)),
    )


def _over(rows: list[JSON], steps: list[int], *parts: str) -> list[str]:
    """Cells "error / energy score", means over rows, one a step."""
    return [
        " / ".join(
            f"{statistics.fmean(e[part] for row in rows for e in row['errors'] if e['step'] == step):.3f}"
            for part in parts
        )
        for step in steps
    ]


def _missing(rows: list[JSON]) -> str:
    there = {(row["task"], row["family"], row["seed"]) for row in rows}
    gaps = [
        f"{world}, {FAMILIES[family]} ({', '.join(map(str, left))})"
        for world, families in WORLDS.items()
        for family in families
        if (left := [seed for seed in SEEDS if (world, family, seed) not in there])
    ]
    return "; ".join(gaps)


def one_frame_section(tree: JSON) -> str:
    """Real return by observation of the policy."""
    lines, missing = [], []
    for key in dict.fromkeys([*SIGHTS, *(row["policy"] for row in tree["rows"])]):
        name = SIGHTS.get(key, key)
        rows = [row for row in tree["rows"] if row["policy"] == key]
        left = sorted(set(SEEDS) - {row["seed"] for row in rows})
        if left:
            missing.append(f"{name} ({', '.join(map(str, left))})")
        if rows:
            steps = f"{rows[0]['real_steps']:,}"
            lines.append([name, steps, f"{mean_of(rows):,.1f}", by_seed(rows)])
    return paragraphs(
        table(["observation", "real steps", "real return, mean over seeds", "by seed"], lines),
        f"Not measured: {'; '.join(missing)}." if missing else "",
        source(tree, commits(tree["rows"])),
    )
