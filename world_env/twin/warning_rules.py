"""Warnings about a twin, from the fidelity in its twin.json: one rule for each warning."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from world_env.results.comparison import PolicyComparison
from world_env.results.error_curves import error_curves
from world_env.results.fidelity import Fidelity, KindAgreement, Numbers
from world_env.results.formatting import percent, show
from world_env.twin.fidelity_tables import policies_text

MAX_OUT_OF_DISTRIBUTION = 0.2
"""Share of a compared policy's learned steps that may be out of distribution."""
MIN_PEARSON = 0.95
MAX_BIAS = 0.05
"""Mean of learned minus real return, as a share of the pool's range of real returns."""
MAX_OFF_LEVEL = 0.05
"""Difference of measured and nominal coverage of the predicted intervals."""
MAX_WIDTH = 0.25
"""Width of a predicted interval, as a share of the pool's range of real returns."""
MIN_POLICIES, MIN_RUNS = 10, 8
"""Policies, and training runs that they come from, for a reliable correlation."""
MIN_ENDS = 10
"""Terminal steps in the validation split for a reliable score of terminations."""
MIN_LABELS, MIN_RECALL = 20, 0.5
"""Terminal steps in the validation split from which the share of predicted ones counts, and the smallest such share."""
MIN_AUROC = 0.7
MAX_SURVIVAL_GAP = 0.1
LOST_SHARE = 0.9
"""Share of the later steps with an error of at least hold-last's, from which open-loop predictions are useless."""
MAX_LINEAR_SHARE = 0.5
"""Share of the measured steps after which a linear model may be as accurate as the twin."""

_LISTED_POLICIES = 3
"""Compared policies that one warning lists."""
_SAME = 1e-6
"""Relative distance of two intervals that rounding can explain."""

NO_WARNING = "No warning rule applies."


@dataclass(frozen=True)
class Measured:
    """Input of the rules.

    horizon: time limit in steps; None: no time limit, or unknown.
    known: outcomes computed by known functions instead of the model ("reward", "termination").
    """

    fidelity: Fidelity
    horizon: int | None = None
    known: Sequence[str] = ()

    @property
    def evaluation(self) -> KindAgreement | None:
        """Agreement over the policy pool; None without a pool."""
        return None if self.fidelity.agreement is None else self.fidelity.agreement.evaluation

    @property
    def optimisation(self) -> KindAgreement | None:
        """Agreement over the policies trained in the twin; None without a pool, or without such policies."""
        return None if self.fidelity.agreement is None else self.fidelity.agreement.optimisation

    @property
    def short_horizon(self) -> tuple[int, int] | None:
        """(trusted horizon, episode length) in steps where the first is shorter, else None."""
        horizons = self.fidelity.horizons
        if horizons is None:
            return None
        # Errors are measured up to the end of the longest episode of the validation split.
        episode = self.horizon or max(horizons.observation.steps)
        trusted = horizons.trusted_horizon
        return (trusted, episode) if trusted < episode else None


Rule = Callable[[Measured], str | None]
"""Returns the text of a warning, or None where the warning does not apply."""


def warnings_of(
    fidelity: Fidelity, *, horizon: int | None = None, known: Sequence[str] = ()
) -> list[str]:
    """Warnings that apply to a twin, in the order of `RULES`, then the issues of its data. Arguments: `Measured`."""
    issues = [f"Data {issue}" for issue in fidelity.lint]
    return _texts(RULES, Measured(fidelity, horizon, known)) + issues


def comparison_warnings(rows: Sequence[PolicyComparison]) -> list[str]:
    """Warnings that follow from a comparison of learned and real returns alone, in the order of `COMPARISON_RULES`."""
    return _texts(COMPARISON_RULES, Measured(Fidelity(comparison=list(rows))))


def _texts(rules: dict[str, Rule], measured: Measured) -> list[str]:
    return [text for rule in rules.values() if (text := rule(measured)) is not None]


def misuses(fidelity: Fidelity, *, horizon: int | None = None) -> list[str]:
    """Uses that a twin is not made for."""
    measured, calibration = Measured(fidelity, horizon), fidelity.return_prediction
    found = [
        "decisions that can cause harm",
        "reporting a learned return as a result: evaluate the policy in the real environment first",
        "environments with other arguments or wrappers than the real environment of this twin",
    ]
    if calibration is None:
        found.append("predicting real returns from learned returns: no interval is calibrated")
    else:
        if calibration.half_width:
            found.append(
                "choosing between policies whose predicted returns differ by less than "
                f"{show(2 * calibration.half_width)} (interval width)"
            )
        if calibration.most_past_threshold < 1:
            found.append(
                "predicting the real return of policies with more than "
                f"{percent(calibration.most_past_threshold)} of their steps out of distribution"
            )
    if measured.short_horizon is not None:
        trusted = measured.short_horizon[0]
        found.append(
            f"single predictions more than {show(trusted)} steps after the last real observation"
            if trusted
            else "single predictions of any length"
        )
    if _uncertainty(measured) is not None:
        found.append("detecting wrong predictions by their uncertainty")
    return found


def _return_gap(measured: Measured) -> str | None:
    apart = [(gap, row) for row in measured.fidelity.comparison if (gap := _distance(row)) > 0]
    apart.sort(key=lambda pair: pair[0], reverse=True)
    if not apart:
        return None
    policies = [
        f"{row.label} (real {row.real_text}, learned {row.learned_text})" for _, row in apart
    ]
    return f"The 95 % intervals of real and learned return do not overlap: {_listed(policies)}."


def _distance(row: PolicyComparison) -> float:
    """Distance between the intervals of real and learned return, task units; 0 where they overlap or are unknown."""
    if row.learned_ci95 is None or row.real_ci95 is None:
        return 0.0
    distance = max(row.learned_ci95[0] - row.real_ci95[1], row.real_ci95[0] - row.learned_ci95[1])
    # Floating-point rounding is no return gap.
    rounding = _SAME * max(map(abs, (*row.real_ci95, *row.learned_ci95)))
    return distance if distance > rounding else 0.0


def _out_of_distribution(measured: Measured) -> str | None:
    shares = [
        (row.past_threshold_share, row.label)
        for row in measured.fidelity.comparison
        if row.past_threshold_share is not None
        and row.past_threshold_share > MAX_OUT_OF_DISTRIBUTION
    ]
    if not shares:
        return None
    shares.sort(key=lambda pair: pair[0], reverse=True)
    policies = [f"{label} ({percent(share)})" for share, label in shares]
    return (
        f"More than {percent(MAX_OUT_OF_DISTRIBUTION)} of the learned steps are out of distribution, so learned "
        f"returns are unreliable: {_listed(policies)}."
    )


def _listed(policies: Sequence[str]) -> str:
    more = len(policies) - _LISTED_POLICIES
    return "; ".join(policies[:_LISTED_POLICIES]) + (f"; and {more} more" if more > 0 else "")


def _no_pool(measured: Measured) -> str | None:
    if measured.evaluation is not None:
        return None
    if measured.fidelity.return_prediction is not None:
        return "No policy pool is recorded: the agreement of learned and real returns is unknown."
    return (
        "No policy pool was evaluated: predicted returns of this twin have no interval. Evaluate one with "
        "`world-env pool` and `world-env compare --pool`."
    )


def _uncalibrated(measured: Measured) -> str | None:
    if measured.evaluation is None or measured.fidelity.return_prediction is not None:
        return None
    return "A policy pool was evaluated, but predicted returns are not calibrated on it: they have no interval."


def _few_policies(measured: Measured) -> str | None:
    found = measured.evaluation
    if found is None or (found.policies >= MIN_POLICIES and found.runs >= MIN_RUNS):
        return None
    return (
        f"Agreement was measured on only {policies_text(found)}: a reliable correlation needs at least {MIN_POLICIES} "
        f"policies from {MIN_RUNS} training runs."
    )


def _pearson(measured: Measured) -> str | None:
    found = measured.evaluation
    if found is None or found.pearson is None or found.pearson >= MIN_PEARSON:
        return None
    if found.ceiling is not None and found.pearson >= found.ceiling:
        return None
    limit = "unknown" if found.ceiling is None else f"{found.ceiling:.3f}"
    return (
        f"The Pearson correlation of learned and real returns is only {found.pearson:.3f} (goal {MIN_PEARSON}; upper "
        f"limit from two halves of the real episodes: {limit})."
    )


def _bias(measured: Measured) -> str | None:
    share = None if measured.evaluation is None else measured.evaluation.bias_fraction
    if share is None or abs(share) <= MAX_BIAS:
        return None
    return (
        f"Learned returns of policies that were not trained in the twin are too {'high' if share > 0 else 'low'} by "
        f"{percent(abs(share))} of the pool's range of real returns, on average."
    )


def _coverage(kind: str, measured: Measured) -> str | None:
    """Too wide an interval is a fault only for the policies that calibrated it."""
    calibration = measured.fidelity.return_prediction
    found = None if calibration is None else calibration.coverage.get(kind)
    if calibration is None or found is None:
        return None
    off = round(found - calibration.level, 9)
    if -MAX_OFF_LEVEL <= off and (off <= MAX_OFF_LEVEL or kind == "optimisation"):
        return None
    policies = "policies trained in the twin" if kind == "optimisation" else "policies"
    return (
        f"The {percent(calibration.level)} intervals cover the real return of {percent(found)} of the {policies}: they "
        f"are too {'narrow' if off < 0 else 'wide'}."
    )


def _width(measured: Measured) -> str | None:
    calibration = measured.fidelity.return_prediction
    width = None if calibration is None else calibration.width_fraction
    if width is None or width <= MAX_WIDTH:
        return None
    return (
        "The intervals of predicted returns are wide: "
        f"{percent(width)} of the pool's range of real returns."
    )


def _exploitation(measured: Measured) -> str | None:
    found = measured.optimisation
    if found is None or found.bias <= 0:
        return None
    share, ends = found.bias_fraction, found.bias_ci95
    of_range = "" if share is None else f" ({percent(share)} of the pool's range)"
    chance = "; the 95 % interval includes 0" if ends is not None and ends[0] <= 0 else ""
    return (
        f"Learned returns of policies trained in the twin are {show(found.bias)}{of_range} too high on "
        f"average{chance}."
    )


def _exploitation_unknown(measured: Measured) -> str | None:
    if measured.evaluation is None or measured.optimisation is not None:
        return None
    return "No policy trained in the twin was evaluated with the pool: exploitation of model errors is unknown."


def _missed_ends(measured: Measured) -> str | None:
    scores = measured.fidelity.termination
    if scores is None or scores.recall is None or "termination" in measured.known:
        return None
    if scores.terminal_labels < MIN_LABELS or scores.recall >= MIN_RECALL:
        return None
    rule = measured.fidelity.termination_rule
    if rule is not None and rule.rule == "sample":
        return None
    return (
        f"The twin predicts only {percent(scores.recall)} of the {show(scores.terminal_labels)} terminations in the "
        "validation split, so learned episodes are too long. Add the cause of the terminations to the observation, if "
        "there is one."
    )


def _few_ends(measured: Measured) -> str | None:
    scores = measured.fidelity.termination
    if scores is None or scores.terminal_labels >= MIN_ENDS or "termination" in measured.known:
        return None
    if not scores.terminal_labels:
        return "No episode of the validation split terminates: the accuracy of predicted terminations is unknown."
    return (
        f"Only {show(scores.terminal_labels)} steps of the validation split terminate an episode: the measured "
        "accuracy of predicted terminations is uncertain."
    )


def _miscounted_ends(measured: Measured) -> str | None:
    found = measured.fidelity.termination_rule
    if found is None:
        return None
    gap = found.sample_gap if found.rule == "sample" else found.threshold_gap
    if gap <= MAX_SURVIVAL_GAP + 0.5 / math.sqrt(found.episodes):
        return None
    return (
        "The number of terminations in the twin is inaccurate: under the same actions, the mean episode length is "
        f"{show(found.learned_length)} steps in the twin and {show(found.real_length)} steps in the real environment."
    )


def _survival(measured: Measured) -> str | None:
    horizons = measured.fidelity.horizons
    found = None if horizons is None else horizons.survival
    if found is None:
        return None
    gaps = [
        (abs(real - learned), step, real, learned)
        for step, real, learned in zip(found.steps, found.real, found.learned, strict=True)
        if real is not None and learned is not None
    ]
    if not gaps or max(gaps)[0] <= MAX_SURVIVAL_GAP:
        return None
    _, step, real, learned = max(gaps)
    return (
        f"Learned and real episodes end at different times: after {show(step)} steps, {percent(learned)} of the "
        f"learned and {percent(real)} of the real episodes are running."
    )


def _short_horizon(measured: Measured) -> str | None:
    if measured.short_horizon is None:
        return None
    trusted, episode = measured.short_horizon
    if not trusted:
        return (
            "No measured step is trusted: the error after 1 step is more than half that of holding the last "
            "observation. Compare policies in the real environment."
        )
    return f"The trusted horizon is {show(trusted)} steps; an episode has up to {show(episode)}."


def _useless_predictions(measured: Measured) -> str | None:
    curve = measured.fidelity.open_loop
    if curve is None:
        return None
    worse = _no_lower(curve.error, curve.hold_last)
    # A single later step where hold-last is right by chance (periodic observations return to it) does not count.
    first, count = None, 0
    for left, bad in enumerate(reversed(worse), 1):
        count += bad
        if bad and count >= LOST_SHARE * left:
            first = len(worse) - left + 1
    if first is None:
        return None
    return f"From step {first} on, the open-loop error is no lower than that of holding the last observation."


def _no_lower(error: Numbers, baseline: Numbers) -> list[bool]:
    """Whether the error of each step is no lower than that of a baseline; None is above any number."""
    return [
        base is not None and (learned is None or learned >= base)
        for learned, base in zip(error, baseline, strict=True)
    ]


def _linear_model(measured: Measured) -> str | None:
    curves = error_curves(measured.fidelity)
    if curves is None or "linear" not in curves.series:
        return None
    worse = _no_lower(curves.series["twin"], curves.series["linear"])
    steps = [step for step, bad in zip(curves.steps, worse, strict=True) if bad]
    if len(steps) <= MAX_LINEAR_SHARE * len(worse):
        return None
    return (
        f"A linear model of the same data predicts as well or better after {', '.join(map(show, steps))} steps: a "
        "longer fit, more data or another family can be more accurate."
    )


def _uncertainty(measured: Measured) -> str | None:
    horizons = measured.fidelity.horizons
    ranking = None if horizons is None else horizons.uncertainty
    known = [] if ranking is None else [value for value in ranking.auroc if value is not None]
    if not known or median(known) >= MIN_AUROC:
        return None
    return (
        f"The uncertainty is a weak indicator of errors: AUROC {median(known):.2f} for the largest errors "
        "(chance: 0.5)."
    )


def _actions(measured: Measured) -> str | None:
    found = measured.fidelity.action_effects
    if found is None or found.effect_error is None or found.effect_size is None:
        return None
    # The error is a share of the effect: 1 is the error of predicting no effect at all.
    useless = [
        step
        for step, share, size in zip(
            found.steps, found.effect_error, found.effect_size, strict=True
        )
        if share is not None and share >= 1 and size
    ]
    if not useless:
        return None
    return (
        f"After {show(min(useless))} steps, the predicted effect of other actions is no better than predicting no "
        "effect."
    )


COMPARISON_RULES: dict[str, Rule] = {
    "return gap": _return_gap,
    "out of distribution": _out_of_distribution,
}
"""Rules about the compared policies: the first warnings of a page and a card."""

RULES: dict[str, Rule] = {
    **COMPARISON_RULES,
    "no pool": _no_pool,
    "uncalibrated": _uncalibrated,
    "few policies": _few_policies,
    "pearson": _pearson,
    "bias": _bias,
    "coverage": partial(_coverage, "evaluation"),
    "coverage of trained": partial(_coverage, "optimisation"),
    "width": _width,
    "exploitation": _exploitation,
    "exploitation unknown": _exploitation_unknown,
    "few ends": _few_ends,
    "missed ends": _missed_ends,
    "miscounted ends": _miscounted_ends,
    "survival": _survival,
    "short horizon": _short_horizon,
    "useless predictions": _useless_predictions,
    "linear model": _linear_model,
    "uncertainty": _uncertainty,
    "actions": _actions,
}
"""Name -> rule. A new warning is one function and one line here."""
