"""The tables of families.py and one_frame.py, for tables.py."""

from __future__ import annotations

import statistics

NOTHING = "Nothing was measured yet: `benchmarks/results/families.json` does not exist."
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
"""World -> the families that can see it."""
SEEDS = (0, 1, 2)
RANDOM, STATE, ONE_FRAME = "nothing (random)", "the whole state", "what one frame shows"
LATENTS = "real pixels, as latents of the bundled twin"
SIGHTS = (RANDOM, STATE, LATENTS, ONE_FRAME)
"""What the policies of one_frame.py see."""


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
                lines += _lines(world, name, mine, steps)
        if here:
            lines += [
                _line(world, "nothing moves", here, steps, "hold_last"),
                _line(world, "nothing moves, energy score", here, steps, "hold_energy"),
            ]
    missing = _missing(rows)
    commits = ", ".join(sorted({f"`{row['commit'][:8]}`" for row in rows}))
    end = [f"Made at {commits} on {tree['machine']}."]
    return "\n".join(
        [*lines, "", *([f"Not measured yet: {missing}.", ""] if missing else []), *end]
    )


def _lines(world: str, name: str, rows: list[dict], steps: list[int]) -> list[str]:
    reward, seconds = (
        statistics.fmean(row[part] for row in rows) for part in ("reward_error", "seconds")
    )
    seeds = ", ".join(str(row["seed"]) for row in sorted(rows, key=lambda row: row["seed"]))
    ends = f"{reward:.3f} | {seconds:.0f} | {seeds}"
    return [
        _line(world, name, rows, steps, "error", ends),
        _line(world, f"{name}, energy score", rows, steps, "energy"),
    ]


def _line(
    world: str, said: str, rows: list[dict], steps: list[int], part: str, ends: str = "- | - | -"
) -> str:
    values = " | ".join(_over(rows, step, part) for step in steps)
    return f"| {world} | {said} | {values} | {ends} |"


def _over(rows: list[dict], step: int, part: str) -> str:
    """Mean over rows at a step."""
    return f"{statistics.fmean(e[part] for row in rows for e in row['errors'] if e['step'] == step):.3f}"


def _missing(rows: list[dict]) -> str:
    there = {(row["task"], row["family"], row["seed"]) for row in rows}
    gaps = [
        f"{world}, {name} ({', '.join(map(str, left))})"
        for world, families in WORLDS.items()
        for family, name in FAMILIES.items()
        if family in families
        and (left := [seed for seed in SEEDS if (world, family, seed) not in there])
    ]
    return "; ".join(gaps)


def one_frame_section(tree: dict | None) -> str:
    """The Markdown between the `one_frame` markers."""
    if tree is None:
        return "Nothing was measured yet: `benchmarks/results/one_frame.json` does not exist."
    lines = [
        "| it sees | real steps | real return, mean over seeds | seed by seed |",
        "|---|---|---|---|",
    ]
    missing = []
    for seen in dict.fromkeys([*SIGHTS, *(row["policy"] for row in tree["rows"])]):
        rows = [row for row in tree["rows"] if row["policy"] == seen]
        left = sorted(set(SEEDS) - {row["seed"] for row in rows})
        if left:
            missing.append(f"{seen} ({', '.join(map(str, left))})")
        if not rows:
            continue
        mean = statistics.fmean(row["real_mean"] for row in rows)
        each = ", ".join(f"{row['seed']}: {row['real_mean']:.1f}" for row in rows)
        lines.append(f"| {seen} | {rows[0]['real_steps']:,} | {mean:.1f} | {each} |")
    commits = ", ".join(sorted({f"`{row['commit'][:8]}`" for row in tree["rows"]}))
    told = [f"Not measured yet: {'; '.join(missing)}.", ""] if missing else []
    return "\n".join([*lines, "", *told, f"Made at {commits} on {tree['machine']}."])
