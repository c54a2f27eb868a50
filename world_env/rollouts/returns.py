"""Returns of a policy in the real environment or in a twin, and their confidence interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from world_env.simulation.simulator import StepResult

Watch = Callable[[Any, StepResult, np.ndarray], None]
"""Callback for each learned step: (observations before it, result of the step, (B,) bool: episodes stepped)."""


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
    """

    values: np.ndarray
    lengths: np.ndarray
    first: Any
    past_threshold: float | None = None
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Return the mean over episodes."""
        return float(self.values.mean())

    def ci95(self) -> tuple[float, float]:
        """Return the 95 % bootstrap interval of the mean over episodes."""
        return bootstrap_mean(self.values)


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


def stacked(observations: Sequence[Any]) -> Any:
    """Stack N single observations into one array (N, ...), or a dict of arrays for Dict observations."""
    if isinstance(observations[0], dict):
        return {key: np.stack([part[key] for part in observations]) for key in observations[0]}
    return np.stack(observations)
