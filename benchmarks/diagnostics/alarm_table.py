"""The table of alarm.py, for tables.py."""

from __future__ import annotations

import statistics

NOTHING = "Nothing was measured yet: `benchmarks/results/alarm.json` does not exist."
EXPLOITED = 0.1
"""Share of the larger of the two by which the learned mean return lies above the real one: that was exploitation."""


def alarm_section(tree: dict | None) -> str:
    """The Markdown between the `alarm` markers."""
    if tree is None:
        return NOTHING
    parts = []
    for tuning, words in ((False, "PolicyReturns"), (True, "Tuning")):
        rows = [row for row in tree["rows"] if row["tuning"] == tuning]
        if rows:
            parts += [_table(rows, words), _summary(rows)]
    share = statistics.fmean(row["alarm_share"] for row in tree["rows"])
    commits = " ".join(sorted({f"`{row['commit'][:8]}`" for row in tree["rows"]}))
    parts.append(
        f"Checks took {share:.0%} of the wall clock on average, where a policy trains for little more than a minute. "
        f"Made at {commits}, on {tree['machine']}."
    )
    return "\n\n".join(parts)


def _table(rows: list[dict], words: str) -> str:
    lines = [
        f"**{words}**\n",
        "| task | sabotage | learned and real return, by seed | raised | without spot checks | signals, and the steps "
        "after which they came | real steps |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, name in dict.fromkeys((row["task"], row["sabotage"]) for row in rows):
        found = [row for row in rows if (row["task"], row["sabotage"]) == (task, name)]
        each = ", ".join(
            f"{row['seed']}: {row['learned_mean']:.0f} / {row['real_mean']:.0f}" for row in found
        )
        steps = ", ".join(f"{row['real_steps_spot_check']:,}" for row in found)
        lines.append(
            f"| {task} | {name} | {each} | {_of(found, raised)} | {_of(found, raised_without)} | {_signals(found)} "
            f"| {steps} |"
        )
    return "\n".join(lines)


def _summary(rows: list[dict]) -> str:
    sound = [row for row in rows if row["sabotage"] == "none"]
    bad = [row for row in rows if row["sabotage"] != "none"]
    harmed = [row for row in bad if exploited(row)]
    lines = [
        "| | with spot checks | without |",
        "|---|---|---|",
        f"| detected, of the sabotaged twins | {_of(bad, raised)} | {_of(bad, raised_without)} |",
        f"| detected, of those that were exploited | {_of(harmed, raised)} | {_of(harmed, raised_without)} |",
        f"| false alarms, of the sound twins | {_of(sound, raised)} | {_of(sound, raised_without)} |",
    ]
    missed = [
        f"{row['task']} {row['sabotage']} seed {row['seed']}" for row in bad if not raised(row)
    ]
    lines.append(f"\nNot noticed: {', '.join(missed) or 'none'}. Exploited: learned above real by more than "
                 f"{EXPLOITED:.0%} of the larger.")  # fmt: skip
    return "\n".join(lines)


def raised(row: dict) -> bool:
    """Whether the alarm went off."""
    return row["raised"]


def raised_without(row: dict) -> bool:
    """Whether it would have without asking reality."""
    return any(signal != "spot_check" for signal in row["signals"])


def exploited(row: dict) -> bool:
    """Whether the policy's learned return was not paid in reality."""
    learned, real = row["learned_mean"], row["real_mean"]
    return learned - real > EXPLOITED * max(abs(learned), abs(real))


def _of(rows: list[dict], what) -> str:
    return f"{sum(map(what, rows))} of {len(rows)}"


def _signals(rows: list[dict]) -> str:
    steps: dict[str, list[int]] = {}
    for row in rows:
        for signal, step in zip(row["signals"], row["at_steps"], strict=True):
            steps.setdefault(signal, []).append(step)
    return ", ".join(
        f"{signal} {len(found)} x ({min(found):,} to {max(found):,})"
        for signal, found in steps.items()
    )
