"""Tables of alarm.json for tables.py."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.markdown import commits, grouped, mean_of, paragraphs, source, table
from world_env.types import JSON

EXPLOITED = 0.1
"""Return gap, as a share of the larger absolute return, from which a policy exploits model errors."""


def alarm_section(tree: JSON) -> str:
    """Signals by task and sabotage, for the seeds that the limits were not chosen on."""
    rows = [row for row in tree["rows"] if not row["tuning"]]
    share = f"Checks took {mean_of(tree['rows'], 'alarm_share'):.0%} of the training time."
    return paragraphs(
        _table(rows), _summary(rows), f"{source(tree, commits(tree['rows']))} {share}"
    )


def alarm_tuning_section(tree: JSON) -> str:
    """Counts for the seeds and sabotages that the limits were chosen on."""
    return _summary([row for row in tree["rows"] if row["tuning"]])


def _table(rows: list[JSON]) -> str:
    lines = []
    for (task, name), found in grouped(rows, lambda row: (row["task"], row["sabotage"])).items():
        each = ", ".join(f"{row['learned_mean']:.0f} / {row['real_mean']:.0f}" for row in found)
        counts = [_of(found, raised), _of(found, raised_without)]
        steps = f"{max(row['real_evaluation_steps'] for row in found):,}"
        lines.append([task, name, each, *counts, _signals(found), steps])
    header = ["task", "sabotage", "learned / real return by seed", "raised"]
    header += ["raised without real episodes", "signals, first step", "real steps, at most"]
    return table(header, lines)


def _summary(rows: list[JSON]) -> str:
    if not rows:
        return ""
    sound = [row for row in rows if row["sabotage"] == "none"]
    bad = [row for row in rows if row["sabotage"] != "none"]
    kinds = {
        "detected, of sabotaged twins": bad,
        "detected, of exploited twins": [row for row in bad if exploited(row)],
        "false alarms, of sound twins": sound,
    }
    missed = grouped(
        [row for row in bad if not raised(row)], lambda row: (row["task"], row["sabotage"])
    )
    shown = ", ".join(f"{task} {name} ({len(rows)} seeds)" for (task, name), rows in missed.items())
    return paragraphs(
        table(
            ["", "with real evaluation episodes", "without"],
            [[name, _of(of, raised), _of(of, raised_without)] for name, of in kinds.items()],
        ),
        f"Not detected: {shown or 'none'}.",
    )


def raised(row: JSON) -> bool:
    """Whether the alarm was raised."""
    return row["raised"]


def raised_without(row: JSON) -> bool:
    """Whether it was raised by a signal that needs no real episode."""
    return any(signal != "real_evaluation" for signal in row["signals"])


def exploited(row: JSON) -> bool:
    """Whether the learned return exceeds the real return by more than `EXPLOITED`."""
    learned, real = row["learned_mean"], row["real_mean"]
    return learned - real > EXPLOITED * max(abs(learned), abs(real))


def _of(rows: list[JSON], what: Callable[[JSON], bool]) -> str:
    return f"{sum(map(what, rows))} of {len(rows)}"


_NAMES = {"second_twin": "second twin", "real_evaluation": "real episodes"}


def _signals(rows: list[JSON]) -> str:
    steps: dict[str, list[int]] = {}
    for row in rows:
        for signal, step in zip(row["signals"], row["at_steps"], strict=True):
            steps.setdefault(_NAMES.get(signal, signal), []).append(step)
    return ", ".join(f"{name} {len(found)}x ({min(found):,})" for name, found in steps.items())
