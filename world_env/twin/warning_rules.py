"""What a twin's own numbers warn of: one rule a warning, from what its twin.json stores and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from world_env.twin.fidelity import at, interval, number, numbers, percent, show

MIN_PEARSON = 0.95
MAX_BIAS = 0.05
"""Learned minus real, as a share of the pool's range of real returns."""
MAX_OFF_LEVEL = 0.05
"""How far measured coverage may lie from the level that is predicted."""
MAX_WIDTH = 0.25
"""Of a predicted interval, as a share of the pool's range."""
MIN_POLICIES, MIN_RUNS = 10, 8
"""Below these a correlation says little, and policies of one run are alike."""
MIN_ENDS = 10
MIN_AUROC = 0.7
MAX_SURVIVAL_GAP = 0.1
LOST_SHARE = 0.9
"""Of all later steps, at which predictions are no better than none."""

NO_WARNING = "None of the rules for warnings applies."
TRAINED_IN_IT = "policies trained in it"


@dataclass(frozen=True)
class Measured:
    """What the rules read.

    fidelity: of the twin. horizon: the time limit in steps; None: none, or not known here.
    known: outcomes that come from known functions instead of the model.
    """

    fidelity: Any
    horizon: int | None = None
    known: Sequence[str] = ()

    def at(self, *path: str) -> Any:
        """An entry of the fidelity, or None."""
        return at(self.fidelity, *path)

    def number(self, *path: str) -> float | None:
        """A finite number of the fidelity, or None."""
        return number(self.at(*path))

    @property
    def judged(self) -> bool:
        """Whether a pool of policies was run in both worlds."""
        return bool(self.number("agreement", "evaluation", "policies"))

    @property
    def has_prediction(self) -> bool:
        """Whether returns come with an interval."""
        return self.number("return_prediction", "half_width") is not None

    @property
    def beyond_trust(self) -> tuple[float, float] | None:
        """(trusted steps, steps of an episode) where the first are fewer."""
        trusted = self.number("horizons", "trusted_horizon")
        # Errors are measured up to the end of the longest held-out episode.
        steps = numbers(self.at("horizons", "observation", "steps"))
        longest = max((step or 0 for step in steps), default=0)
        episode = self.horizon or longest
        return (trusted, episode) if trusted is not None and trusted < episode else None


Rule = Callable[[Measured], str | None]
"""The warning, or None where it would not be true."""


def warnings_of(
    fidelity: Any, *, horizon: int | None = None, known: Sequence[str] = ()
) -> list[str]:
    """Every warning that is true of a twin, in the order of RULES; `Measured` says what the arguments are."""
    measured = Measured(fidelity, horizon, known)
    return [text for rule in RULES.values() if (text := rule(measured)) is not None]


def misuses(fidelity: Any, *, horizon: int | None = None) -> list[str]:
    """What a twin must not be used for."""
    measured = Measured(fidelity, horizon)
    found = [
        "decisions about anything that can be harmed",
        "reporting a return in it as a result: it is a forecast until the policy was judged in reality",
        "an environment with other arguments or wrappers than the one that it was made from",
    ]
    if measured.has_prediction:
        half_width = measured.number("return_prediction", "half_width")
        most = measured.number("return_prediction", "most_past_threshold")
        if half_width:
            found.append(
                "choosing between policies whose predicted returns differ by less than "
                f"{show(2 * half_width)}, the width of an interval"
            )
        if most is not None and most < 1:
            found.append(
                f"policies of which more than {percent(most)} of the steps pass its uncertainty threshold: "
                "no promise covers them"
            )
    else:
        found.append(
            "saying how far reality may be from a return in it: no interval was calibrated"
        )
    if measured.beyond_trust is not None:
        found.append(
            f"single predictions more than {show(measured.beyond_trust[0])} steps after the last real observation"
        )
    if _uncertainty(measured) is not None:
        found.append("telling by its uncertainty which predictions are right")
    return found


def _unjudged(measured: Measured) -> str | None:
    if measured.judged:
        return None
    if measured.has_prediction:
        return "No policy pool is recorded: how well its returns agree with real ones is not known."
    return "No policy pool has been judged: promises of this twin have no interval."


def _uncalibrated(measured: Measured) -> str | None:
    if not measured.judged or measured.has_prediction:
        return None
    return (
        "A policy pool was judged, but no promise was calibrated on it: returns have no interval."
    )


def _few_policies(measured: Measured) -> str | None:
    policies, runs = (
        measured.number("agreement", "evaluation", name) for name in ("policies", "runs")
    )
    if not policies or (policies >= MIN_POLICIES and (runs is None or runs >= MIN_RUNS)):
        return None
    return (
        f"Agreement rests on {show(policies)} policies of {show(runs)} training runs; it takes {MIN_POLICIES} "
        f"policies of {MIN_RUNS} runs to say much."
    )


def _pearson(measured: Measured) -> str | None:
    pearson, ceiling = (
        measured.number("agreement", "evaluation", name) for name in ("pearson", "ceiling")
    )
    if pearson is None or pearson >= MIN_PEARSON or (ceiling is not None and pearson >= ceiling):
        return None
    against = "an unknown one" if ceiling is None else f"{ceiling:.3f}"
    return (
        f"Its returns follow real ones with a Pearson correlation of {pearson:.3f} only; two halves of the real "
        f"episodes follow each other with {against}."
    )


def _bias(measured: Measured) -> str | None:
    share = measured.number("agreement", "evaluation", "bias_fraction")
    if share is None or abs(share) <= MAX_BIAS:
        return None
    return (
        f"Policies that never trained in it earn {percent(abs(share))} of the pool's range "
        f"{'less' if share > 0 else 'more'} in reality than in it, on average."
    )


def _coverage(kind: str, measured: Measured) -> str | None:
    """Too wide an interval is a fault only where the interval was calibrated."""
    found, level = (
        measured.number("return_prediction", "coverage", kind),
        measured.number("return_prediction", "level"),
    )
    level = 0.9 if level is None else level
    off = 0.0 if found is None else round(found - level, 9)
    if -MAX_OFF_LEVEL <= off and (off <= MAX_OFF_LEVEL or kind == "optimisation"):
        return None
    whose = f" of {TRAINED_IN_IT}" if kind == "optimisation" else ""
    return (
        f"Its {percent(level)} intervals held {percent(found)} of the real returns{whose}: they are "
        f"{'too narrow' if off < 0 else 'wider than they say'}."
    )


def _width(measured: Measured) -> str | None:
    width = measured.number("return_prediction", "width_fraction")
    if width is None or width <= MAX_WIDTH:
        return None
    return f"Its intervals are wide: {percent(width)} of the pool's range of real returns."


def _flattered(measured: Measured) -> str | None:
    bias = measured.number("agreement", "optimisation", "bias")
    if bias is None or bias <= 0:
        return None
    share = measured.number("agreement", "optimisation", "bias_fraction")
    ends = interval(measured.at("agreement", "optimisation", "bias_ci95"))
    of_range = "" if share is None else f" ({percent(share)} of the pool's range)"
    chance = ", which chance may explain" if ends is not None and ends[0] <= 0 else ""
    return (
        f"{TRAINED_IN_IT.capitalize()} earn less in reality than it says: {show(bias)} on average"
        f"{of_range}{chance}."
    )


def _flattery_unknown(measured: Measured) -> str | None:
    if not measured.judged or measured.number("agreement", "optimisation", "policies"):
        return None
    return f"No {TRAINED_IN_IT} were judged: how much it flatters them is not known."


def _few_ends(measured: Measured) -> str | None:
    ends = measured.number("termination", "terminal_labels")
    if ends is None or ends >= MIN_ENDS or "termination" in measured.known:
        return None
    if not ends:
        return "No held-out episode was ended by the task: whether it ends episodes as reality does was never seen."
    return f"Only {show(ends)} held-out steps end an episode: how well it foresees ends rests on these few."


def _survival(measured: Measured) -> str | None:
    steps, real, learned = (
        numbers(measured.at("horizons", "survival", name)) for name in ("steps", "real", "learned")
    )
    gaps = [
        (abs(there - here), step, there, here)
        for step, there, here in zip(steps, real, learned, strict=False)
        if step is not None and there is not None and here is not None
    ]
    if not gaps or max(gaps)[0] <= MAX_SURVIVAL_GAP:
        return None
    _, step, there, here = max(gaps)
    return (
        f"Episodes end at other times than in reality: after {show(step)} steps {percent(here)} of the learned ones "
        f"go on, of the real ones {percent(there)}."
    )


def _short_trust(measured: Measured) -> str | None:
    if measured.beyond_trust is None:
        return None
    trusted, episode = measured.beyond_trust
    return f"Its predictions are trusted for {show(trusted)} steps, an episode has up to {show(episode)}."


def _lost(measured: Measured) -> str | None:
    error, still = (numbers(measured.at("open_loop", name)) for name in ("error", "hold_last"))
    if not error or len(error) != len(still):
        return None
    worse = [
        there is not None and (here is None or here >= there)
        for here, there in zip(error, still, strict=True)
    ]
    # One step where hold-last happens to be right again (whatever swings returns to it) says nothing.
    first, count = None, 0
    for left, bad in enumerate(reversed(worse), 1):
        count += bad
        if bad and count >= LOST_SHARE * left:
            first = len(worse) - left + 1
    if first is None:
        return None
    return (
        f'From step {first} on it predicts held-out episodes no better than "nothing moves" does.'
    )


def _uncertainty(measured: Measured) -> str | None:
    found = numbers(measured.at("horizons", "uncertainty", "auroc"))
    known = [value for value in found if value is not None]
    if not known or median(known) >= MIN_AUROC:
        return None
    return (
        f"Its uncertainty hardly tells where it is wrong: AUROC {median(known):.2f} for its largest errors "
        "(0.5 is chance)."
    )


def _actions(measured: Measured) -> str | None:
    steps, error, size = (
        numbers(measured.at("counterfactual", name))
        for name in ("steps", "effect_error", "effect_size")
    )
    lost = [
        step
        for step, off, effect in zip(steps, error, size, strict=False)
        if step is not None and off is not None and effect is not None and off >= effect > 0
    ]
    if not lost:
        return None
    return (
        f"After {show(min(lost))} steps, what another action would have changed is predicted no better than by "
        '"nothing".'
    )


RULES: dict[str, Rule] = {
    "unjudged": _unjudged,
    "uncalibrated": _uncalibrated,
    "few policies": _few_policies,
    "pearson": _pearson,
    "bias": _bias,
    "coverage": partial(_coverage, "evaluation"),
    "coverage of trained": partial(_coverage, "optimisation"),
    "width": _width,
    "flattered": _flattered,
    "flattery unknown": _flattery_unknown,
    "few ends": _few_ends,
    "survival": _survival,
    "short trust": _short_trust,
    "lost": _lost,
    "uncertainty": _uncertainty,
    "actions": _actions,
}
"""Name -> rule. A new warning is one function and one line here."""
