"""Warnings about a twin, from the fidelity in its twin.json: one rule for each warning."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from world_env.twin.fidelity import at, interval, number, numbers, percent, rows_of, show
from world_env.twin.fidelity_tables import policies_text, policy_label, with_ends
from world_env.types import JSON

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
MIN_AUROC = 0.7
MAX_SURVIVAL_GAP = 0.1
LOST_SHARE = 0.9
"""Share of the later steps with an error of at least hold-last's, from which open-loop predictions are useless."""

_LISTED_POLICIES = 3
"""Compared policies that one warning lists."""
_SAME = 1e-6
"""Relative distance of two intervals that rounding can explain."""

NO_WARNING = "No warning rule applies."


@dataclass(frozen=True)
class Measured:
    """Input of the rules.

    fidelity: fidelity of a twin, as in its twin.json. horizon: time limit in steps; None: no time limit, or unknown.
    known: outcomes computed by known functions instead of the model ("reward", "termination").
    """

    fidelity: Any
    horizon: int | None = None
    known: Sequence[str] = ()

    def at(self, *path: str) -> Any:
        """Entry of the fidelity at the end of a path, or None."""
        return at(self.fidelity, *path)

    def number(self, *path: str) -> float | None:
        """Finite number of the fidelity at the end of a path, or None."""
        return number(self.at(*path))

    @property
    def compared(self) -> list[JSON]:
        """Rows of the comparison of learned and real returns."""
        return rows_of(self.at("comparison"))

    @property
    def has_pool(self) -> bool:
        """Whether a policy pool was evaluated in the twin and in the real environment."""
        return bool(self.number("agreement", "evaluation", "policies"))

    @property
    def has_prediction(self) -> bool:
        """Whether predicted returns have a calibrated interval."""
        return self.number("return_prediction", "half_width") is not None

    @property
    def short_horizon(self) -> tuple[float, float] | None:
        """(trusted horizon, episode length) in steps where the first is shorter, else None."""
        trusted = self.number("horizons", "trusted_horizon")
        # Errors are measured up to the end of the longest episode of the validation split.
        steps = numbers(self.at("horizons", "observation", "steps"))
        longest = max((step or 0 for step in steps), default=0)
        episode = self.horizon or longest
        return (trusted, episode) if trusted is not None and trusted < episode else None


Rule = Callable[[Measured], str | None]
"""Returns the text of a warning, or None where the warning does not apply."""


def warnings_of(
    fidelity: Any, *, horizon: int | None = None, known: Sequence[str] = ()
) -> list[str]:
    """Warnings that apply to a twin, in the order of `RULES`. Arguments: see `Measured`."""
    return _texts(RULES, Measured(fidelity, horizon, known))


def comparison_warnings(rows: Any) -> list[str]:
    """Warnings that follow from a comparison of learned and real returns alone, in the order of `COMPARISON_RULES`."""
    return _texts(COMPARISON_RULES, Measured({"comparison": rows}))


def _texts(rules: dict[str, Rule], measured: Measured) -> list[str]:
    return [text for rule in rules.values() if (text := rule(measured)) is not None]


def misuses(fidelity: Any, *, horizon: int | None = None) -> list[str]:
    """Uses that a twin is not made for."""
    measured = Measured(fidelity, horizon)
    found = [
        "decisions that can cause harm",
        "reporting a learned return as a result: evaluate the policy in the real environment first",
        "environments with other arguments or wrappers than the real environment of this twin",
    ]
    if measured.has_prediction:
        half_width = measured.number("return_prediction", "half_width")
        most = measured.number("return_prediction", "most_past_threshold")
        if half_width:
            found.append(
                "choosing between policies whose predicted returns differ by less than "
                f"{show(2 * half_width)} (interval width)"
            )
        if most is not None and most < 1:
            found.append(
                f"predicting the real return of policies with more than {percent(most)} of their steps out of "
                "distribution"
            )
    else:
        found.append("predicting real returns from learned returns: no interval is calibrated")
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
    apart = [(gap, row) for row in measured.compared if (gap := _distance(row)) > 0]
    apart.sort(key=lambda pair: pair[0], reverse=True)
    policies = [
        f"{policy_label(row.get('policy'))} (real {with_ends(row, 'real_mean', 'real_ci95')}, "
        f"learned {with_ends(row, 'learned_mean', 'learned_ci95')})"
        for _, row in apart
    ]
    if not policies:
        return None
    return f"The 95 % intervals of real and learned return do not overlap: {_listed(policies)}."


def _distance(row: JSON) -> float:
    """Distance between the intervals of real and learned return, task units; 0 where they overlap or are unknown."""
    real, learned = interval(row.get("real_ci95")), interval(row.get("learned_ci95"))
    if real is None or learned is None:
        return 0.0
    distance = max(learned[0] - real[1], real[0] - learned[1])
    # Floating-point rounding is no return gap.
    rounding = _SAME * max(map(abs, (*real, *learned)))
    return distance if distance > rounding and math.isfinite(distance) else 0.0


def _out_of_distribution(measured: Measured) -> str | None:
    shares = [
        (share, row)
        for row in measured.compared
        if (share := number(row.get("past_threshold_share"))) is not None
        and share > MAX_OUT_OF_DISTRIBUTION
    ]
    shares.sort(key=lambda pair: pair[0], reverse=True)
    policies = [f"{policy_label(row.get('policy'))} ({percent(share)})" for share, row in shares]
    if not policies:
        return None
    return (
        f"More than {percent(MAX_OUT_OF_DISTRIBUTION)} of the learned steps are out of distribution, so learned "
        f"returns are unreliable: {_listed(policies)}."
    )


def _listed(policies: Sequence[str]) -> str:
    more = len(policies) - _LISTED_POLICIES
    return "; ".join(policies[:_LISTED_POLICIES]) + (f"; and {more} more" if more > 0 else "")


def _no_pool(measured: Measured) -> str | None:
    if measured.has_pool:
        return None
    if measured.has_prediction:
        return "No policy pool is recorded: the agreement of learned and real returns is unknown."
    return (
        "No policy pool was evaluated: predicted returns of this twin have no interval. Evaluate one with "
        "`world-env pool` "
        "and `world-env compare --pool`."
    )


def _uncalibrated(measured: Measured) -> str | None:
    if not measured.has_pool or measured.has_prediction:
        return None
    return "A policy pool was evaluated, but predicted returns are not calibrated on it: they have no interval."


def _few_policies(measured: Measured) -> str | None:
    pool = measured.at("agreement", "evaluation")
    policies, runs = number(at(pool, "policies")), number(at(pool, "runs"))
    if not policies or (policies >= MIN_POLICIES and (runs is None or runs >= MIN_RUNS)):
        return None
    return (
        f"Agreement was measured on only {policies_text(pool)}: a reliable correlation needs at least {MIN_POLICIES} "
        f"policies from {MIN_RUNS} training runs."
    )


def _pearson(measured: Measured) -> str | None:
    pearson, ceiling = (
        measured.number("agreement", "evaluation", name) for name in ("pearson", "ceiling")
    )
    if pearson is None or pearson >= MIN_PEARSON or (ceiling is not None and pearson >= ceiling):
        return None
    limit = "unknown" if ceiling is None else f"{ceiling:.3f}"
    return (
        f"The Pearson correlation of learned and real returns is only {pearson:.3f} (goal {MIN_PEARSON}; upper "
        f"limit from "
        f"two halves of the real episodes: {limit})."
    )


def _bias(measured: Measured) -> str | None:
    share = measured.number("agreement", "evaluation", "bias_fraction")
    if share is None or abs(share) <= MAX_BIAS:
        return None
    return (
        f"Learned returns of policies that were not trained in the twin are too {'high' if share > 0 else 'low'} by "
        f"{percent(abs(share))} of the pool's range of real returns, on average."
    )


def _coverage(kind: str, measured: Measured) -> str | None:
    """Too wide an interval is a fault only for the policies that calibrated it."""
    found, level = (
        measured.number("return_prediction", "coverage", kind),
        measured.number("return_prediction", "level"),
    )
    level = 0.9 if level is None else level
    off = 0.0 if found is None else round(found - level, 9)
    if -MAX_OFF_LEVEL <= off and (off <= MAX_OFF_LEVEL or kind == "optimisation"):
        return None
    policies = "policies trained in the twin" if kind == "optimisation" else "policies"
    return (
        f"The {percent(level)} intervals cover the real return of {percent(found)} of the {policies}: they are too "
        f"{'narrow' if off < 0 else 'wide'}."
    )


def _width(measured: Measured) -> str | None:
    width = measured.number("return_prediction", "width_fraction")
    if width is None or width <= MAX_WIDTH:
        return None
    return (
        "The intervals of predicted returns are wide: "
        f"{percent(width)} of the pool's range of real returns."
    )


def _exploitation(measured: Measured) -> str | None:
    bias = measured.number("agreement", "optimisation", "bias")
    if bias is None or bias <= 0:
        return None
    share = measured.number("agreement", "optimisation", "bias_fraction")
    ends = interval(measured.at("agreement", "optimisation", "bias_ci95"))
    of_range = "" if share is None else f" ({percent(share)} of the pool's range)"
    chance = "; the 95 % interval includes 0" if ends is not None and ends[0] <= 0 else ""
    return f"Learned returns of policies trained in the twin are {show(bias)}{of_range} too high on average{chance}."


def _exploitation_unknown(measured: Measured) -> str | None:
    if not measured.has_pool or measured.number("agreement", "optimisation", "policies"):
        return None
    return "No policy trained in the twin was evaluated with the pool: exploitation of model errors is unknown."


def _few_ends(measured: Measured) -> str | None:
    ends = measured.number("termination", "terminal_labels")
    if ends is None or ends >= MIN_ENDS or "termination" in measured.known:
        return None
    if not ends:
        return "No episode of the validation split terminates: the accuracy of predicted terminations is unknown."
    return (
        f"Only {show(ends)} steps of the validation split terminate an episode: the measured accuracy of predicted "
        "terminations is uncertain."
    )


def _survival(measured: Measured) -> str | None:
    steps, real, learned = (
        numbers(measured.at("horizons", "survival", name)) for name in ("steps", "real", "learned")
    )
    gaps = [
        (abs(real_share - learned_share), step, real_share, learned_share)
        for step, real_share, learned_share in zip(steps, real, learned, strict=False)
        if step is not None and real_share is not None and learned_share is not None
    ]
    if not gaps or max(gaps)[0] <= MAX_SURVIVAL_GAP:
        return None
    _, step, real_share, learned_share = max(gaps)
    return (
        f"Learned and real episodes end at different times: after {show(step)} steps, {percent(learned_share)} of the "
        f"learned and {percent(real_share)} of the real episodes are running."
    )


def _short_horizon(measured: Measured) -> str | None:
    if measured.short_horizon is None:
        return None
    trusted, episode = measured.short_horizon
    if not trusted:
        return (
            "No measured step is trusted: the error after 1 step is more than half that of holding the last "
            "observation. "
            "Compare policies in the real environment."
        )
    return f"The trusted horizon is {show(trusted)} steps; an episode has up to {show(episode)}."


def _useless_predictions(measured: Measured) -> str | None:
    error, hold_last = (numbers(measured.at("open_loop", name)) for name in ("error", "hold_last"))
    if not error or len(error) != len(hold_last):
        return None
    worse = [
        baseline is not None and (learned is None or learned >= baseline)
        for learned, baseline in zip(error, hold_last, strict=True)
    ]
    # A single later step where hold-last is right by chance (periodic observations return to it) does not count.
    first, count = None, 0
    for left, bad in enumerate(reversed(worse), 1):
        count += bad
        if bad and count >= LOST_SHARE * left:
            first = len(worse) - left + 1
    if first is None:
        return None
    return f"From step {first} on, the open-loop error is no lower than that of holding the last observation."


def _uncertainty(measured: Measured) -> str | None:
    found = numbers(measured.at("horizons", "uncertainty", "auroc"))
    known = [value for value in found if value is not None]
    if not known or median(known) >= MIN_AUROC:
        return None
    return (
        f"The uncertainty is a weak indicator of errors: AUROC {median(known):.2f} for the largest errors "
        "(chance: 0.5)."
    )


def _actions(measured: Measured) -> str | None:
    steps, error, size = (
        numbers(measured.at("counterfactual", name))
        for name in ("steps", "effect_error", "effect_size")
    )
    # The error is a share of the effect: 1 is the error of predicting no effect at all.
    useless = [
        step
        for step, share, effect in zip(steps, error, size, strict=False)
        if step is not None and share is not None and effect is not None and share >= 1 and effect
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
    "survival": _survival,
    "short horizon": _short_horizon,
    "useless predictions": _useless_predictions,
    "uncertainty": _uncertainty,
    "actions": _actions,
}
"""Name -> rule. A new warning is one function and one line here."""
