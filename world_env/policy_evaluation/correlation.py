"""Agreement of learned and real returns over many policies.

Measures: Pearson and Spearman correlation; MMRV, the mean maximum rank violation (Li et al. 2024, SIMPLER, eq. 1);
regret@k and absolute error (Fu et al. 2021, DOPE). The ceiling is the agreement between two halves of the real
episodes: an exact simulator would reach it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from world_env.errors import InvalidOptionError
from world_env.results.comparison import Interval
from world_env.results.fidelity import AgreementCeilings, AgreementMeasures

EVALUATION, OPTIMISATION = "evaluation", "optimisation"
"""Kinds of policies: trained in the real environment only, and trained in the twin."""
_RESAMPLES = 1000
_SPLITS = 50
_MIN_POLICIES = 3
"""Fewest policies of a correlation."""


@dataclass(frozen=True)
class PolicyReturns:
    """Real and learned returns of one policy, episode by episode from the same initial states.

    run: training run of the policy. kind: EVALUATION or OPTIMISATION.
    real, learned: (E,) undiscounted returns, task units.
    learned_return: mean learned return from the twin's own initial states, which needs no real environment; None: not
        measured.
    past_threshold: share of learned steps that are out of distribution; None where the twin has no threshold.
    """

    policy: str
    run: str
    kind: str
    real: np.ndarray
    learned: np.ndarray
    learned_return: float | None = None
    past_threshold: float | None = None


def pearson(*, real: np.ndarray, learned: np.ndarray) -> float | None:
    """Pearson correlation of two (P,) arrays. None for fewer than three policies, or where one side is constant."""
    real, learned = _pair(real, learned)
    if len(real) < _MIN_POLICIES or np.ptp(real) == 0 or np.ptp(learned) == 0:
        return None
    real, learned = real - real.mean(), learned - learned.mean()
    return float(real @ learned / np.sqrt((real @ real) * (learned @ learned)))


def spearman(*, real: np.ndarray, learned: np.ndarray) -> float | None:
    """Spearman rank correlation of two (P,) arrays, ties at their mean rank. None as in `pearson`."""
    real, learned = _pair(real, learned)
    return pearson(real=rankdata(real), learned=rankdata(learned))


def mmrv(*, real: np.ndarray, learned: np.ndarray) -> float:
    """Mean maximum rank violation: mean over policies of the largest real gap to a policy that the twin ranks wrongly.

    Not symmetric: violations are weighted by the real gap, so a wrong order of equal policies counts 0. Task units, >=
    0.
    """
    real, learned = _pair(real, learned)
    gap = np.abs(real[:, None] - real[None, :])
    wrong = (real[:, None] < real[None, :]) != (learned[:, None] < learned[None, :])
    return float((gap * wrong).max(1).mean())


def regret(*, real: np.ndarray, learned: np.ndarray, k: int = 1) -> float:
    """Best real return minus the best real return among the top k policies of the twin. Task units, >= 0."""
    real, learned = _pair(real, learned)
    best = np.argsort(-learned, kind="stable")[:k]
    return float(real.max() - real[best].max())


def ceiling(
    policies: Sequence[PolicyReturns],
    measure: Callable[..., float | None] = pearson,
    *,
    seed: int = 0,
) -> float | None:
    """Mean of a measure between two disjoint halves of the real episodes over 50 splits, in both directions."""
    real = np.stack([policy.real for policy in policies])
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(_SPLITS):
        order = rng.permutation(real.shape[1])
        half = len(order) // 2
        first, second = real[:, order[:half]].mean(1), real[:, order[half : 2 * half]].mean(1)
        found += [measure(real=first, learned=second), measure(real=second, learned=first)]
    known = [value for value in found if value is not None]
    return float(np.mean(known)) if known else None


def statistics(
    policies: Sequence[PolicyReturns],
    *,
    span: float | None = None,
    intervals: bool = True,
    seed: int = 0,
) -> AgreementMeasures:
    """Compute all measures of agreement for one kind of policies.

    span: range of real returns, the unit of fractions; None: the range of these policies.
    intervals: compute 95 % intervals (`bootstrap`). Raises InvalidOptionError without policies.
    """
    if not policies:
        raise InvalidOptionError("no policy given: agreement needs at least one")
    real = np.array([policy.real.mean() for policy in policies])
    learned = np.array([policy.learned.mean() for policy in policies])
    span = float(np.ptp(real)) if span is None else span
    violation, gap = mmrv(real=real, learned=learned), learned - real
    bias, mae = float(gap.mean()), float(np.abs(gap).mean())

    def fraction(value: float) -> float | None:
        return value / span if span > 0 else None

    return AgreementMeasures(
        policies=len(policies),
        runs=len({policy.run for policy in policies}),
        pearson=pearson(real=real, learned=learned),
        spearman=spearman(real=real, learned=learned),
        spearman_upper_half=_upper_half(real, learned),
        mmrv=violation,
        mmrv_fraction=fraction(violation),
        regret1=regret(real=real, learned=learned, k=1),
        regret3=regret(real=real, learned=learned, k=3),
        bias=bias,
        bias_fraction=fraction(bias),
        mae=mae,
        mae_fraction=fraction(mae),
        ceiling=ceiling(policies, seed=seed),
        ceilings=AgreementCeilings(
            spearman=ceiling(policies, spearman, seed=seed),
            mmrv=ceiling(policies, mmrv, seed=seed),
        ),
        **(bootstrap([policies], seed=seed) if intervals else {}),
    )


def bootstrap(
    twins: Sequence[Sequence[PolicyReturns]], *, seed: int = 0
) -> dict[str, Interval | None]:
    """Compute 95 % percentile intervals by a hierarchical bootstrap: twins, runs, policies of the runs, episodes.

    Returns "pearson_ci95", "spearman_ci95", "mmrv_ci95" and "bias_ci95"; None where undefined.

    twins: for each twin, the returns of the policies in it. Policies of a run and episodes of a policy are correlated,
    so resampling policies alone would give intervals that are too narrow. The same episodes are drawn for all policies
    and both sides, because they share initial states: an easy initial state is no evidence for the order of policies.
    """
    share = -(-_RESAMPLES // len(twins))
    sides = [
        _draws(policies, share, np.random.default_rng([seed, number]))
        for number, policies in enumerate(twins)
    ]
    drawn: dict[str, list[np.ndarray]] = {}
    for real, learned in sides:
        gap = np.abs(real[:, :, None] - real[:, None, :])
        wrong = (real[:, :, None] < real[:, None, :]) != (learned[:, :, None] < learned[:, None, :])
        for name, values in (
            ("pearson", _row_pearson(real, learned)),
            ("spearman", _row_pearson(rankdata(real, axis=1), rankdata(learned, axis=1))),
            ("mmrv", (gap * wrong).max(2).mean(1)),
            ("bias", (learned - real).mean(1)),
        ):
            drawn.setdefault(name, []).append(values)
    return {f"{name}_ci95": _interval(np.concatenate(values)) for name, values in drawn.items()}


def _draws(
    policies: Sequence[PolicyReturns], count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(count, P) mean real and learned returns of resampled policies and episodes."""
    runs: dict[str, list[int]] = {}
    for i, policy in enumerate(policies):
        runs.setdefault(policy.run, []).append(i)
    groups = list(runs.values())
    taken = np.empty((count, len(policies)), int)
    for row in taken:
        of_runs = [i for g in rng.integers(len(groups), size=len(groups)) for i in groups[g]]
        row[:] = np.array(of_runs)[rng.integers(len(of_runs), size=len(policies))]
    length = len(policies[0].real)
    episodes = rng.integers(length, size=(count, 1, length))
    sides = [np.stack([getattr(p, name) for p in policies]) for name in ("real", "learned")]
    real, learned = (
        np.stack([side[part[:, None], own].mean(1) for part, own in zip(taken, episodes, strict=True)])
        for side in sides
    )  # fmt: skip
    return real, learned


def _row_pearson(real: np.ndarray, learned: np.ndarray) -> np.ndarray:
    """(N,) correlation of each row of two (N, P) arrays; NaN where one side is constant."""
    # Before the means are subtracted, because rounding errors of a constant would count as variation.
    varies = (np.ptp(real, axis=1) > 0) & (np.ptp(learned, axis=1) > 0)
    real, learned = (side - side.mean(1, keepdims=True) for side in (real, learned))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (real * learned).sum(1) / np.sqrt((real**2).sum(1) * (learned**2).sum(1))
    return np.where(varies, found, np.nan)


def _interval(values: np.ndarray) -> Interval | None:
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def _upper_half(real: np.ndarray, learned: np.ndarray) -> float | None:
    """Spearman correlation over the better half of the policies: the order among good policies."""
    best = np.argsort(-real, kind="stable")[: (len(real) + 1) // 2]
    return spearman(real=real[best], learned=learned[best])


def _pair(real: np.ndarray, learned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    real, learned = np.asarray(real, float), np.asarray(learned, float)
    if real.shape != learned.shape or real.ndim != 1 or not len(real):
        raise InvalidOptionError(
            f"real has shape {real.shape} and learned {learned.shape}, expected (P,) in both: one mean per policy"
        )
    return real, learned
