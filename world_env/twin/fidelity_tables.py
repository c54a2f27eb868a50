"""Fidelity of a twin as sentences and tables, shared by the model card and the report page."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from world_env.results.comparison import policy_label
from world_env.results.error_curves import ErrorCurves
from world_env.results.fidelity import (
    AgreementMeasures,
    Fidelity,
    KindAgreement,
    PolicyCount,
)
from world_env.results.formatting import DASH, percent, show, with_interval

Table = list[list[str]]
"""Rows of cells, the header first; empty without data."""

_SHOWN_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
"""Steps in a table of open-loop errors, in addition to the last step."""
AGREEMENT_NOTE = (
    "Evaluation: policies that were not trained in the twin. Optimisation: policies trained in the twin. Bias: mean of "
    "learned minus real return. Ceiling: Pearson correlation between two halves of the real episodes. MMRV: mean "
    "maximum rank violation. Regret@k: real return lost by choosing the best of the k policies with the highest "
    "learned return. Returns are in task units; percentages of the range refer to the pool's range of real returns."
)
"""Legend of `agreement_table`."""


def agreement_table(fidelity: Fidelity) -> Table:
    """Agreement of learned and real returns: one row for each measure, one column for each kind of policies."""
    columns: dict[str, AgreementMeasures] = {}
    for kind, stats in kinds_of(fidelity).items():
        columns[kind] = stats
        if stats.supported is not None and stats.supported.policies != stats.policies:
            columns[f"{kind}, with interval"] = stats.supported
    rows = [[label, *map(cell, columns.values())] for label, cell in _MEASURES]
    measured = [row for row in rows if set(row[1:]) - {DASH}]
    return [["measure", *columns], *measured] if columns else []


def kinds_of(fidelity: Fidelity) -> dict[str, KindAgreement]:
    """Kind of policies -> its agreement, where it was measured."""
    found = fidelity.agreement
    if found is None:
        return {}
    kinds = {"evaluation": found.evaluation, "optimisation": found.optimisation}
    return {kind: stats for kind, stats in kinds.items() if stats is not None}


def coverage_table(fidelity: Fidelity) -> Table:
    """Coverage of the predicted intervals by kind of policies: nominal and measured."""
    calibration = fidelity.return_prediction
    if calibration is None:
        return []
    rows = [
        [kind, _count(stats.supported or stats), percent(calibration.level), percent(measured)]
        for kind, stats in kinds_of(fidelity).items()
        if (measured := calibration.coverage.get(kind)) is not None
    ]
    head = ["kind", "policies", "nominal coverage", "measured coverage"]
    return [head, *rows] if rows else []


def points_table(fidelity: Fidelity) -> Table:
    """Real, learned and predicted return of every evaluated policy."""
    if fidelity.agreement is None or not fidelity.agreement.points:
        return []
    head = ["policy", "kind", "real return [95 %]", "learned return [95 %]", "predicted return"]
    rows = [
        [
            policy_label(point.policy),
            point.kind,
            with_interval(point.real, point.real_ci95),
            with_interval(point.learned, point.learned_ci95),
            DASH if point.low is None else f"{show(point.low)} to {show(point.high)}",
            percent(point.past_threshold_share),
        ]
        for point in fidelity.agreement.points
    ]
    return [[*head, "out of distribution"], *rows]


def returns_table(fidelity: Fidelity) -> Table:
    """Real and learned return of every compared policy."""
    rows = [[row.label, row.real_text, row.learned_text] for row in fidelity.comparison]
    return [["policy", "real return [95 %]", "learned return [95 %]"], *rows] if rows else []


def effect_table(fidelity: Fidelity) -> Table:
    """Effect of other actions after some steps, and the error of its prediction as a share of the effect."""
    found = fidelity.action_effects
    if found is None or found.effect_size is None or found.effect_error is None:
        return []
    columns = (found.steps, found.effect_size, found.effect_error)
    rows = [
        [show(steps), show(size), percent(error)]
        for steps, size, error in zip(*columns, strict=True)
    ]
    head = ["steps", "effect of other actions (standard deviations)", "error (share of the effect)"]
    return [head, *rows]


def prediction_text(fidelity: Fidelity) -> str:
    """Interval of the predicted return in words; empty where none was calibrated."""
    found = fidelity.return_prediction
    if found is None:
        return ""
    text = f"Predicted real return: learned return {_spaced(-found.bias)}"
    if found.bias_per_share:
        text += (
            f" {_spaced(-found.bias_per_share / 100)} for each percent of steps out of distribution"
        )
    text += f", ± {show(found.half_width)} ({percent(found.level)} interval)."
    if found.width_fraction is not None:
        text += (
            f" Interval width: {percent(found.width_fraction)} of the pool's range of real returns."
        )
    if found.most_past_threshold < 1:
        most = percent(found.most_past_threshold)
        text += f" Valid for policies with at most {most} of their steps out of distribution."
    return f"{text} Calibrated on {policies_text(found.calibrated_on)}."


def _spaced(value: float) -> str:
    return f"{'-' if value < 0 else '+'} {show(abs(value))}"


def termination_rule_text(fidelity: Fidelity) -> str:
    """Rule of terminations and its measured episode lengths; empty if the number of terminations is accurate."""
    found = fidelity.termination_rule
    if found is None:
        return ""
    chosen = (
        "Terminations are sampled from the predicted probability"
        if found.rule == "sample"
        else "A step terminates above a threshold of the predicted probability, with an inaccurate number of ends"
    )
    return (
        f"{chosen}. Mean episode length under the same actions ({show(found.episodes)} episodes): "
        f"{show(found.real_length)} steps in the real environment, {show(found.sample_length)} with sampled "
        f"terminations, {show(found.threshold_length)} with the threshold."
    )


def pool_text(fidelity: Fidelity) -> str:
    """Size, range and cost of the policy pool; empty without a pool."""
    if fidelity.agreement is None:
        return ""
    pool = fidelity.agreement.pool
    low, high = pool.range
    return (
        f"Policy pool: {policies_text(pool)}, {show(pool.episodes)} episodes each; mean real returns from {show(low)} "
        f"to {show(high)}. Cost: {show(pool.real_steps)} real environment steps."
    )


def error_table(curves: ErrorCurves | None) -> Table:
    """Open-loop errors after some numbers of steps: one column for each series."""
    if curves is None:
        return []
    rows = [
        [show(step), *(show(values[i]) for values in curves.series.values())]
        for i, step in enumerate(curves.steps)
        if step in _SHOWN_STEPS or i == len(curves.steps) - 1
    ]
    return [["steps", *map(curves.label, curves.series)], *rows]


def policies_text(stats: PolicyCount) -> str:
    """Number of policies and of the training runs that they come from."""
    noun = "policy" if stats.policies == 1 else "policies"
    return f"{show(stats.policies)} {noun} from {_runs(stats.runs)}"


def _count(stats: AgreementMeasures) -> str:
    return f"{show(stats.policies)} ({_runs(stats.runs)})"


def _runs(count: int) -> str:
    return f"{show(count)} training run{'' if count == 1 else 's'}"


def _correlation(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"


def _of_range(name: str, stats: AgreementMeasures) -> str:
    """Value in task units, with its share of the pool's range of real returns."""
    share = getattr(stats, f"{name}_fraction")
    return show(getattr(stats, name)) + ("" if share is None else f" ({percent(share)})")


def _percent_of(name: str, stats: AgreementMeasures) -> str:
    """Share that only statistics of a kind have."""
    return percent(getattr(stats, name, None))


_MEASURES: tuple[tuple[str, Callable[[AgreementMeasures], str]], ...] = (
    ("policies", _count),
    (
        "Pearson correlation [95 %]",
        lambda stats: with_interval(stats.pearson, stats.pearson_ci95, _correlation),
    ),
    ("Pearson ceiling", lambda stats: _correlation(stats.ceiling)),
    ("Spearman correlation", lambda stats: _correlation(stats.spearman)),
    (
        "Spearman correlation, better half",
        lambda stats: _correlation(stats.spearman_upper_half),
    ),
    ("MMRV (of the range)", partial(_of_range, "mmrv")),
    ("regret@1", lambda stats: show(stats.regret1)),
    ("regret@3", lambda stats: show(stats.regret3)),
    ("bias (of the range)", partial(_of_range, "bias")),
    ("mean absolute error (of the range)", partial(_of_range, "mae")),
    ("real return inside the 90 % interval", partial(_percent_of, "coverage90")),
    ("interval width (of the range)", partial(_percent_of, "width_fraction")),
    ("policies with an interval", partial(_percent_of, "supported_share")),
)
"""Rows of the agreement table: label, and its cell from the statistics of one kind of policies."""
