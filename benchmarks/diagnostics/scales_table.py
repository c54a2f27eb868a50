"""The table of scales.py, for tables.py."""

from __future__ import annotations

import statistics

NOTHING = "Nothing was measured yet: `benchmarks/results/scales.json` does not exist."
KINDS = ("ordinary", "spiking")
FEWEST_PAIRS = 3
"""Seeds below which no word is said about which scaling is better."""


def scales_section(tree: dict | None) -> str:
    """The Markdown between the `scales` markers."""
    if tree is None:
        return NOTHING
    rows = tree["rows"]
    lines = [
        "| task | columns | step | error before | after | after / before, seed by seed | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, kind, horizon in dict.fromkeys(
        (row["task"], kind, part["horizon"])
        for row in rows
        for kind in KINDS
        for part in row["errors"]
        if part[kind] is not None
    ):
        lines.append(_line([row for row in rows if row["task"] == task], task, kind, horizon))
    commits = ", ".join(sorted({f"`{row['commit'][:12]}`" for row in rows}))
    updates = " / ".join(f"{value:,}" for value in sorted({row["updates"] for row in rows}))
    return "\n".join(
        [
            *lines,
            "",
            f'Errors are over those of "nothing moves", means over seeds; fits of {updates} updates. Made at {commits} '
            f"on {tree['machine']}.",
        ]
    )


def _line(rows: list[dict], task: str, kind: str, horizon: int) -> str:
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
    both = sorted(set(errors["before"]) & set(errors["after"]))
    # Both are over the same "nothing moves", which is 0 where the column did not spike in any window.
    ratios = [errors["after"][seed]["error"] / errors["before"][seed]["error"] for seed in both]
    means = [_mean(errors[scaling]) for scaling in ("before", "after")]
    count = max(row["columns"][kind] for row in rows)
    each = ", ".join(f"{seed}: {ratio:.2f}" for seed, ratio in zip(both, ratios, strict=True))
    return f"| {task} | {count} {kind} | {horizon} | {means[0]} | {means[1]} | {each} | {_verdict(ratios)} |"


def _mean(errors: dict[int, dict]) -> str:
    known = [part["relative"] for part in errors.values() if part["relative"] is not None]
    return f"{statistics.fmean(known):.3f}" if known else "-"


def _verdict(ratios: list[float]) -> str:
    """A word only where every seed says the same, in the two decimals that are shown."""
    if len(ratios) < FEWEST_PAIRS:
        return "too few seeds"
    shown = [round(ratio, 2) for ratio in ratios]
    if set(shown) == {1.0}:
        return "the same"
    if max(shown) < 1:
        return "better"
    return "**worse**" if min(shown) > 1 else "no clear change"
