"""What was measured of a twin, in words and tables: the card and the page say the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from world_env.twin.fidelity import DASH, at, interval, number, numbers, percent, rows_of, show
from world_env.types import JSON

Table = list[list[str]]
"""Rows of cells, the head first; empty where there is nothing to show."""

_SHOWN_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
"""Steps whose errors a table shows, beside the last one."""
CURVES = (
    ("twin", "twin"),
    ("energy", "energy score of its draws"),
    ("hold_energy", "energy score, last observation held"),
    ("median", "median dimension"),
    ("worst", "worst dimension"),
    ("hold_last", "last observation held"),
    ("linear", "linear model"),
)
"""Series of `measured.error_curves`, and what they are called."""
_KINDS = ("evaluation", "optimisation")
KINDS_SAID = (
    "Evaluation: policies that never trained in the twin. Optimisation: policies trained in it. Bias: learned minus "
    "real. The ceiling is what two halves of the real episodes say of each other."
)


def agreement_table(fidelity: Any) -> Table:
    """How well learned returns stand for real ones: a row a measure, a column a kind of policies."""
    found = [(kind, at(fidelity, "agreement", kind)) for kind in _KINDS]
    columns = [
        (name, stats)
        for kind, whole in found
        for name, stats in ((kind, whole), (f"{kind}, supported", _part(whole)))
        if number(at(stats, "policies"))
    ]
    if not columns:
        return []
    rows = [[label, *(cell(stats) for _, stats in columns)] for label, cell in _MEASURES]
    told = [row for row in rows if set(row[1:]) != {DASH}]
    return [["", *(name for name, _ in columns)], *told]


def coverage_table(fidelity: Any) -> Table:
    """How often the predicted interval held the real return, by kind of policies."""
    level = percent(at(fidelity, "return_prediction", "level"))
    rows = [
        [kind, _count(_supported(at(fidelity, "agreement", kind))), level, percent(held)]
        for kind in _KINDS
        if number(held := at(fidelity, "return_prediction", "coverage", kind)) is not None
    ]
    return [["", "policies", "predicted coverage", "measured"], *rows] if rows else []


def points_table(fidelity: Any) -> Table:
    """Every judged policy in both worlds, with what was predicted of it."""
    rows = [
        [
            str(point.get("policy")),
            str(point.get("kind")),
            with_ends(point, "real", "real_ci95"),
            with_ends(point, "learned", "learned_ci95"),
            " to ".join(map(show, interval([point.get("low"), point.get("high")]) or [None])),
            percent(point.get("past_threshold_share")),
        ]
        for point in rows_of(at(fidelity, "agreement", "points"))
    ]
    head = ["policy", "kind", "real [95 %]", "learned [95 %]", "predicted", "past threshold"]
    return [head, *rows] if rows else []


def effect_table(fidelity: Any) -> Table:
    """How much another action changes after some steps, and how wrong the twin is about it."""
    columns = [
        numbers(at(fidelity, "counterfactual", name))
        for name in ("steps", "effect_size", "effect_error")
    ]
    rows = [
        [f"after {show(steps)}", *map(show, effects)]
        for steps, *effects in zip(*columns, strict=False)
    ]
    return [["steps", "effect of another action", "error of it"], *rows] if rows else []


def prediction_text(fidelity: Any) -> str:
    """The promise in words; empty where none was calibrated."""
    promise = at(fidelity, "return_prediction")
    half_width, bias = number(at(promise, "half_width")), number(at(promise, "bias"))
    if half_width is None or bias is None:
        return ""
    level, taken = number(at(promise, "level")), "less" if bias >= 0 else "plus"
    whose = "Of a policy" if level is None else f"For {percent(level)} of policies"
    text = (
        f"{whose} the real return is predicted to lie within {show(half_width)} of the learned return {taken} "
        f"{show(abs(bias))}."
    )
    width = number(at(promise, "width_fraction"))
    if width is not None:
        text += f" An interval is {percent(width)} of the pool's range of real returns wide."
    most = number(at(promise, "most_past_threshold"))
    if most is not None and most < 1:
        text += f" It holds for policies of which at most {percent(most)} of the steps pass the uncertainty threshold."
    calibrated = at(promise, "calibrated_on")
    if number(at(calibrated, "policies")) is not None:
        text += f" Calibrated on {_policies(calibrated)}."
    return text


def pool_text(fidelity: Any) -> str:
    """Which policies agreement was measured on; empty where there is no pool."""
    pool = at(fidelity, "agreement", "pool")
    if number(at(pool, "policies")) is None:
        return ""
    ends, episodes = interval(at(pool, "range")), number(at(pool, "episodes"))
    text = f"A pool of {_policies(pool)}"
    text += "" if episodes is None else f", {show(episodes)} episodes of each"
    if ends is not None:
        text += f"; mean real returns from {show(ends[0])} to {show(ends[1])}"
    cost = number(at(pool, "real_steps"))
    return text + ("." if cost is None else f". It cost {show(cost)} real steps.")


def error_table(curves: JSON | None) -> Table:
    """Errors of rollouts that never see reality again, after some numbers of steps."""
    if curves is None or not curves.get("twin"):
        return []
    series = [(curve_label(curves, name), curves[name]) for name, _ in CURVES if curves.get(name)]
    steps = list(curves["horizon"])
    rows = [
        [show(step), *(show(values[i]) if i < len(values) else DASH for _, values in series)]
        for i, step in enumerate(steps)
        if step in _SHOWN_STEPS or i == len(steps) - 1
    ]
    return [["steps", *(label for label, _ in series)], *rows]


def curve_label(curves: JSON, name: str) -> str:
    """What one series of the curves is called."""
    label = dict(CURVES)[name]
    return f"{label} ({curves['worst_name']})" if name == "worst" else label


def with_ends(stats: Any, name: str, ends_name: str, shown: Callable[[Any], str] = show) -> str:
    """A number with the ends of its interval where they are known."""
    ends, mean = interval(at(stats, ends_name)), shown(at(stats, name))
    return mean if ends is None or mean == DASH else f"{mean} [{shown(ends[0])}, {shown(ends[1])}]"


def markdown_table(table: Table) -> list[str]:
    """A table as Markdown, nothing for an empty one."""
    if not table:
        return []
    head, *rows = table
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return ["| " + " | ".join(map(_cell, line)) + " |" for line in lines]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _supported(stats: Any) -> Any:
    """The statistics of the policies that were given an interval, where they are known apart."""
    return stats if at(stats, "supported") is None else stats["supported"]


def _part(stats: Any) -> Any:
    """The same, where these are fewer than all."""
    part = at(stats, "supported")
    return None if at(part, "policies") == at(stats, "policies") else part


def _count(stats: Any) -> str:
    policies, runs = show(at(stats, "policies")), number(at(stats, "runs"))
    return policies if runs is None else f"{policies} of {show(runs)} runs"


def _policies(stats: Any) -> str:
    policies, runs = show(at(stats, "policies")), number(at(stats, "runs"))
    return f"{policies} policies" if runs is None else f"{policies} policies of {show(runs)} runs"


def _correlation(value: Any) -> str:
    known = number(value)
    return DASH if known is None else f"{known:.3f}"


def _of_range(name: str, stats: Any) -> str:
    """In task units, and as a share of the pool's range of real returns."""
    share = percent(at(stats, f"{name}_fraction"))
    return show(at(stats, name)) + ("" if share == DASH else f" ({share})")


_MEASURES: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("policies", _count),
    (
        "Pearson [95 %]",
        lambda stats: with_ends(stats, "pearson", "pearson_ci95", _correlation),
    ),
    ("its ceiling", lambda stats: _correlation(at(stats, "ceiling"))),
    ("Spearman", lambda stats: _correlation(at(stats, "spearman"))),
    (
        "Spearman, better half",
        lambda stats: _correlation(at(stats, "spearman_upper_half")),
    ),
    ("MMRV (of the range)", partial(_of_range, "mmrv")),
    ("regret@1", lambda stats: show(at(stats, "regret1"))),
    ("regret@3", lambda stats: show(at(stats, "regret3"))),
    ("bias (of the range)", partial(_of_range, "bias")),
    ("mean absolute error (of the range)", partial(_of_range, "mae")),
    ("inside the 90 % interval", lambda stats: percent(at(stats, "coverage90"))),
    (
        "width of the interval",
        lambda stats: percent(at(stats, "width_fraction")),
    ),
    ("given an interval", lambda stats: percent(at(stats, "supported_share"))),
)
"""Rows of the agreement table: label, and its cell from the statistics of one kind."""
