"""Returns of a policy in the real environment or in a twin, and their confidence interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_FEW = 30
"""Number of values below which percentile bootstrap intervals are too narrow."""


@dataclass(frozen=True)
class Returns:
    """Returns of N episodes of one policy, in the real environment or in a twin.

    values: (N,) return of each episode, undiscounted unless a discount was given.
    lengths: (N,) steps of each episode.
    first: the N first observations, batched.
    past_threshold: fraction of learned steps above the twin's uncertainty threshold. None for real episodes and for
        twins without a threshold.
    parts: name -> (N,) sum over the episode of each number in `info` whose name begins with "reward_" (the reward
        terms of MuJoCo environments). Empty for learned episodes, because a twin predicts the total reward only.
    ends: (N,) reason why each learned episode ended, an index of `simulation.termination.ENDS`. None for real episodes.
    members: (N,) member of the ensemble in which each learned episode was played. None for real episodes and for models
        without members.
    recorded: name -> (T, N, ...) arrays of what `run_learned` was asked to record.
    """

    values: np.ndarray
    lengths: np.ndarray
    first: Any
    past_threshold: float | None = None
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)
    ends: np.ndarray | None = None
    members: np.ndarray | None = None
    recorded: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Return the mean over episodes."""
        return float(self.values.mean())

    def by_member(self) -> np.ndarray:
        """(M,) mean return in each member of the ensemble that played an episode; (0,) without members."""
        if self.members is None:
            return np.zeros(0)
        return np.array([self.values[self.members == m].mean() for m in np.unique(self.members)])

    def ci95(self) -> tuple[float, float]:
        """Return the 95 % interval of the mean over episodes, as `mean_interval`."""
        return mean_interval(self.values)


def mean_interval(values: np.ndarray, *, level: float = 0.95) -> tuple[float, float]:
    """Return an interval (low, high) of the mean of (N,) values.

    It is the percentile bootstrap interval, or Student's t-interval for fewer than 30 values. It is infinite for one
    value, whose spread is unknown.
    """
    if len(values) >= _FEW:
        return bootstrap_mean(values, level=level)
    if len(values) < 2:
        return -math.inf, math.inf
    from scipy.stats import t as student_t

    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    half = error * float(student_t.ppf(0.5 + level / 2, len(values) - 1))
    return mean - half, mean + half


def bootstrap_mean(
    values: np.ndarray, *, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval (low, high) of the mean of (N,) values (scipy.stats.bootstrap)."""
    if len(values) < 2 or np.ptp(values) == 0:
        return float(values.mean()), float(values.mean())
    from scipy.stats import bootstrap

    interval = bootstrap(
        (values,),
        np.mean,
        confidence_level=level,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(seed),
        batch=1000,
    ).confidence_interval
    return float(interval.low), float(interval.high)
