"""Fidelity of a twin as sentences and tables, shared by the model card and the report page."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from world_env.twin.fidelity import DASH, at, interval, number, numbers, percent, rows_of, show
from world_env.types import JSON

Table = list[list[str]]
"""Rows of cells, the header first; empty without data."""

_SHOWN_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
"""Steps in a table of open-loop errors, in addition to the last step."""
CURVES = (
    ("twin", "twin"),
    ("energy", "energy score, sampled predictions"),
    ("hold_energy", "energy score, last observation held"),
    ("median", "median dimension"),
    ("worst", "worst dimension"),
    ("hold_last", "last observation held"),
    ("linear", "linear model"),
)
"""Series of `fidelity.error_curves` and their labels."""
_KINDS = ("evaluation", "optimisation")
AGREEMENT_NOTE = (
    "Evaluation: policies that were not trained in the twin. Optimisation: policies trained in the twin. Bias: mean of "
    "learned minus real return. Ceiling: Pearson correlation between two halves of the real episodes. MMRV: mean "
    "maximum rank violation. Regret@k: real return lost by choosing the best of the k policies with the highest "
    "learned return. Returns are in task units; percentages of the range refer to the pool's range of real returns."
)
"""Legend of `agreement_table`."""
_POLICY = re.compile(r"(?P<algo>a2c|ddpg|dqn|ppo|sac|td3)_(?P<place>twin|real_same_steps)")


def policy_label(name: Any) -> str:
    """Label of a compared policy: words for the names that a build gives, any other name unchanged."""
    if name == "random":
        return "random actions"
    found = _POLICY.fullmatch(str(name))
    if found is None:
        return str(name)
    algo = found["algo"].upper()
    if is_trained_in_twin(name):
        return f"{algo} trained in the twin"
    return f"{algo} trained in the real environment, same steps"


def is_trained_in_twin(name: Any) -> bool:
    """Whether a build gives this name to the policy that it trains in the twin."""
    found = _POLICY.fullmatch(str(name))
    return found is not None and found["place"] == "twin"


def is_baseline(name: Any) -> bool:
    """Whether a build gives this name to a policy that needs no twin."""
    return policy_label(name) != str(name) and not is_trained_in_twin(name)


def agreement_table(fidelity: Any) -> Table:
    """Agreement of learned and real returns: one row for each measure, one column for each kind of policies."""
    found = [(kind, at(fidelity, "agreement", kind)) for kind in _KINDS]
    columns = [
        (name, stats)
        for kind, whole in found
        for name, stats in ((kind, whole), (f"{kind}, with interval", _part(whole)))
        if number(at(stats, "policies"))
    ]
    if not columns:
        return []
    rows = [[label, *(cell(stats) for _, stats in columns)] for label, cell in _MEASURES]
    measured = [row for row in rows if set(row[1:]) != {DASH}]
    return [["measure", *(name for name, _ in columns)], *measured]


def coverage_table(fidelity: Any) -> Table:
    """Coverage of the predicted intervals by kind of policies: nominal and measured."""
    level = percent(at(fidelity, "return_prediction", "level"))
    rows = [
        [kind, _count(_supported(at(fidelity, "agreement", kind))), level, percent(measured)]
        for kind in _KINDS
        if number(measured := at(fidelity, "return_prediction", "coverage", kind)) is not None
    ]
    head = ["kind", "policies", "nominal coverage", "measured coverage"]
    return [head, *rows] if rows else []


def points_table(fidelity: Any) -> Table:
    """Real, learned and predicted return of every evaluated policy."""
    rows = [
        [
            policy_label(point.get("policy")),
            str(point.get("kind")),
            with_ends(point, "real", "real_ci95"),
            with_ends(point, "learned", "learned_ci95"),
            " to ".join(map(show, interval([point.get("low"), point.get("high")]) or [None])),
            percent(point.get("past_threshold_share")),
        ]
        for point in rows_of(at(fidelity, "agreement", "points"))
    ]
    head = ["policy", "kind", "real return [95 %]", "learned return [95 %]", "predicted return"]
    head.append("out of distribution")
    return [head, *rows] if rows else []


def effect_table(fidelity: Any) -> Table:
    """Effect of other actions after some steps, and the error of its prediction as a share of the effect."""
    columns = [
        numbers(at(fidelity, "counterfactual", name))
        for name in ("steps", "effect_size", "effect_error")
    ]
    rows = [
        [show(steps), show(size), percent(error)]
        for steps, size, error in zip(*columns, strict=False)
    ]
    head = ["steps", "effect of other actions (standard deviations)", "error (share of the effect)"]
    return [head, *rows] if rows else []


def prediction_text(fidelity: Any) -> str:
    """Interval of the predicted return in words; empty where none was calibrated."""
    calibration = at(fidelity, "return_prediction")
    half_width, bias = number(at(calibration, "half_width")), number(at(calibration, "bias"))
    if half_width is None or bias is None:
        return ""
    level, slope = number(at(calibration, "level")), number(at(calibration, "bias_per_share"))
    text = f"Predicted real return: learned return {_signed(-bias)}"
    if slope:
        text += f" {_signed(-slope / 100)} for each percent of steps out of distribution"
    text += f", ± {show(half_width)}"
    text += "." if level is None else f" ({percent(level)} interval)."
    width = number(at(calibration, "width_fraction"))
    if width is not None:
        text += f" Interval width: {percent(width)} of the pool's range of real returns."
    most = number(at(calibration, "most_past_threshold"))
    if most is not None and most < 1:
        text += (
            f" Valid for policies with at most {percent(most)} of their steps out of distribution."
        )
    calibrated = at(calibration, "calibrated_on")
    if number(at(calibrated, "policies")) is not None:
        text += f" Calibrated on {policies_text(calibrated)}."
    return text


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'} {show(abs(value))}"


def pool_text(fidelity: Any) -> str:
    """Size, range and cost of the policy pool; empty without a pool."""
    pool = at(fidelity, "agreement", "pool")
    if number(at(pool, "policies")) is None:
        return ""
    ends, episodes = interval(at(pool, "range")), number(at(pool, "episodes"))
    text = f"Policy pool: {policies_text(pool)}"
    text += "" if episodes is None else f", {show(episodes)} episodes each"
    if ends is not None:
        text += f"; mean real returns from {show(ends[0])} to {show(ends[1])}"
    cost = number(at(pool, "real_steps"))
    return text + ("." if cost is None else f". Cost: {show(cost)} real environment steps.")


def error_table(curves: JSON | None) -> Table:
    """Open-loop errors after some numbers of steps: one column for each series."""
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
    """Label of one series of the curves."""
    label = dict(CURVES)[name]
    return f"{label} ({curves['worst_name']})" if name == "worst" else label


def with_ends(stats: Any, name: str, ends_name: str, shown: Callable[[Any], str] = show) -> str:
    """Format a number with its interval, "500 [499, 500]"; without an interval the number alone."""
    ends, mean = interval(at(stats, ends_name)), shown(at(stats, name))
    return mean if ends is None or mean == DASH else f"{mean} [{shown(ends[0])}, {shown(ends[1])}]"


def markdown_table(table: Table) -> list[str]:
    """Lines of a Markdown table; none for an empty table."""
    if not table:
        return []
    head, *rows = table
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return ["| " + " | ".join(map(_cell, line)) + " |" for line in lines]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _supported(stats: Any) -> Any:
    """Statistics of the policies with an interval; of all policies where they are not separate."""
    return stats if at(stats, "supported") is None else stats["supported"]


def _part(stats: Any) -> Any:
    """Statistics of the policies with an interval, where they are fewer than all policies."""
    part = at(stats, "supported")
    return None if at(part, "policies") == at(stats, "policies") else part


def _count(stats: Any) -> str:
    policies, runs = show(at(stats, "policies")), number(at(stats, "runs"))
    return policies if runs is None else f"{policies} ({_runs(runs)})"


def policies_text(stats: Any) -> str:
    """Number of policies and of the training runs that they come from."""
    policies, runs = number(at(stats, "policies")), number(at(stats, "runs"))
    text = f"{show(policies)} {'policy' if policies == 1 else 'policies'}"
    return text if runs is None else f"{text} from {_runs(runs)}"


def _runs(count: float) -> str:
    return f"{show(count)} training run{'' if count == 1 else 's'}"


def _correlation(value: Any) -> str:
    known = number(value)
    return DASH if known is None else f"{known:.3f}"


def _of_range(name: str, stats: Any) -> str:
    """Value in task units, with its share of the pool's range of real returns."""
    share = percent(at(stats, f"{name}_fraction"))
    return show(at(stats, name)) + ("" if share == DASH else f" ({share})")


_MEASURES: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("policies", _count),
    (
        "Pearson correlation [95 %]",
        lambda stats: with_ends(stats, "pearson", "pearson_ci95", _correlation),
    ),
    ("Pearson ceiling", lambda stats: _correlation(at(stats, "ceiling"))),
    ("Spearman correlation", lambda stats: _correlation(at(stats, "spearman"))),
    (
        "Spearman correlation, better half",
        lambda stats: _correlation(at(stats, "spearman_upper_half")),
    ),
    ("MMRV (of the range)", partial(_of_range, "mmrv")),
    ("regret@1", lambda stats: show(at(stats, "regret1"))),
    ("regret@3", lambda stats: show(at(stats, "regret3"))),
    ("bias (of the range)", partial(_of_range, "bias")),
    ("mean absolute error (of the range)", partial(_of_range, "mae")),
    ("real return inside the 90 % interval", lambda stats: percent(at(stats, "coverage90"))),
    (
        "interval width (of the range)",
        lambda stats: percent(at(stats, "width_fraction")),
    ),
    ("policies with an interval", lambda stats: percent(at(stats, "supported_share"))),
)
"""Rows of the agreement table: label, and its cell from the statistics of one kind of policies."""
