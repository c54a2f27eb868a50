"""Tables of agreement.json for tables.py: agreement measures, intervals, goals, and changes that were tried."""

from __future__ import annotations

import json
from collections.abc import Callable

from benchmarks.markdown import commits, paragraphs, source, table, verdict
from benchmarks.refinement.refined_arms import mark_removed
from world_env.types import JSON

TASKS = (
    *("CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0"),
    *("InvertedDoublePendulum-v5", "HalfCheetah-v5", "Pendulum-v1-pixels"),
)
MIN_PEARSON = {"Pendulum-v1-pixels": 0.95}
"""Smallest Pearson correlation of tasks with another goal than .99."""
SEEDS = {0, 1, 2}
KINDS = ("evaluation", "optimisation", "oracle")


def _rows(tree: JSON, *, changed: bool = False) -> list[JSON]:
    """Rows without a change, or those with one, in the order of the tables."""
    rows = [row for row in tree["rows"] if bool(row["change"]) is changed]
    return sorted(
        rows,
        key=lambda row: (
            TASKS.index(row["task"]),
            KINDS.index(row["kind"]),
            json.dumps(row["change"]),
        ),
    )


def _commits(row: JSON) -> str:
    return commits({"commit": commit} for commit in row["commits"])


def agreement_section(tree: JSON) -> str:
    """Correlation, ranking and bias of learned returns."""
    lines = []
    for row in _rows(tree):
        span = row["range"][1] - row["range"][0]
        ceiling = row["ceilings"]["mmrv"]
        lines.append(
            [
                f"{row['task']}, {row['kind']}",
                f"{row['policies']} / {row['runs']}",
                str(len(row["seeds"])),
                f"{_number(row['pearson'])} {_interval(row['pearson_ci95'])}".strip(),
                _number(row["ceiling"]),
                f"{_number(row['spearman'])} ({_number(row['spearman_upper_half'])})",
                f"{_share(row['mmrv_fraction'])} ({_share(None if ceiling is None else ceiling / span)})",
                _share(row["bias_fraction"], sign=True),
                _share(row["mae_fraction"]),
                _share(row["regret1"] / span),
            ]
        )
    header = ["task, policies", "policies / runs", "twins", "Pearson [95 %]", "ceiling"]
    header += ["Spearman (upper half)", "MMRV (ceiling)", "bias", "mean error", "regret@1"]
    every = [{"commit": commit} for row in tree["rows"] for commit in row["commits"]]
    return paragraphs(table(header, lines), _missing(tree), source(tree, commits(every)))


def _missing(tree: JSON) -> str:
    there = {row["task"]: set(row["seeds"]) for row in _rows(tree) if row["kind"] == "evaluation"}
    left = {task: sorted(SEEDS - there.get(task, set())) for task in TASKS}
    missing = [
        f"{task} (seeds {', '.join(map(str, seeds))})" for task, seeds in left.items() if seeds
    ]
    return f"Missing cells: {'; '.join(missing)}." if missing else ""


def intervals_section(tree: JSON) -> str:
    """Prediction intervals: how often one is given, its coverage and width."""
    lines = []
    for row in _rows(tree):
        if row["kind"] != "oracle":
            supported = row["supported"] or {}
            lines.append(
                [
                    f"{row['task']}, {row['kind']}",
                    _share(row["supported_share"], 0),
                    _share(row["coverage90"], 0),
                    _share(row["width_fraction"]),
                    _share(row["past_threshold"]),
                    _number(supported.get("pearson")),
                    f"{max(row['real_steps']):,}",
                    f"{row['pool_steps']:,}",
                    _commits(row),
                ]
            )
    header = ["task, policies", "policies with an interval", "coverage", "median width"]
    header += ["steps out of distribution", "Pearson with an interval", "real steps of a twin"]
    return table([*header, "real steps of the pool", "commits"], lines)


def verdicts(row: JSON) -> dict[str, bool | None]:
    """Goal -> whether a row of kind "evaluation" meets it; None: not measured."""

    def met(value: float | None, good: Callable[[float], bool]) -> bool | None:
        return None if value is None else bool(good(value))

    limit = MIN_PEARSON.get(row["task"], 0.99)
    if row["ceiling"] is not None:
        limit = min(limit, row["ceiling"])
    low = None if row["pearson_ci95"] is None else row["pearson_ci95"][0]
    return {
        "Pearson >= .99 (pixels: .95) or the ceiling": met(row["pearson"], lambda v: v >= limit),
        "its lower bound >= .95": met(low, lambda v: v >= 0.95),
        "MMRV <= 2 %": met(row["mmrv_fraction"], lambda v: v <= 0.02),
        "bias within 5 %": met(row["bias_fraction"], lambda v: abs(v) <= 0.05),
        "coverage 85 to 95 %": met(row["coverage90"], lambda v: 0.85 <= v <= 0.95),
        "width <= 25 %": met(row["width_fraction"], lambda v: v <= 0.25),
    }


def goals_section(tree: JSON) -> str:
    """Verdicts on the goals, for pool policies."""
    found = {row["task"]: verdicts(row) for row in _rows(tree) if row["kind"] == "evaluation"}
    header = ["task", *next(iter(found.values()), {})]
    return table(header, [[task, *map(verdict, each.values())] for task, each in found.items()])


def changes_section(tree: JSON) -> str:
    """Changes of the recipe, for pool policies."""
    header = ["task", "change", "seeds", "Pearson [95 %]", "MMRV", "bias", "coverage", "width"]
    lines = [
        [
            row["task"],
            mark_removed(f"`{json.dumps(row['change'])}`", row["change"]),
            ", ".join(map(str, row["seeds"])),
            f"{_number(row['pearson'])} {_interval(row['pearson_ci95'])}".strip(),
            _share(row["mmrv_fraction"]),
            _share(row["bias_fraction"], sign=True),
            _share(row["coverage90"], 0),
            _share(row["width_fraction"]),
            _commits(row),
        ]
        for row in _rows(tree, changed=True)
        if row["kind"] == "evaluation"
    ]
    return table([*header, "commits"], lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(ends: list[float] | None) -> str:
    return "" if ends is None else f"[{ends[0]:.3f}, {ends[1]:.3f}]"


def _share(value: float | None, digits: int = 1, *, sign: bool = False) -> str:
    return "-" if value is None else f"{100 * value:{'+' if sign else ''}.{digits}f} %"
