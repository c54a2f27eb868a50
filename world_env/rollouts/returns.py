"""One policy's episodes, in reality and in a twin, from the same starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from world_env.simulation.simulator import StepResult

Watch = Callable[[Any, StepResult, np.ndarray], None]
"""(observations left, what the step showed, (B,) bool rows that were stepped): sees every learned step."""


@dataclass(frozen=True)
class Returns:
    """Returns of one policy in one world, undiscounted unless they were asked for otherwise.

    values: (N,) one return an episode. lengths: (N,) steps. first: the N first observations, batched.
    past_threshold: share of learned steps past the twin's uncertainty threshold; None in reality.
    parts: in reality, what the environment itself says that its rewards consist of (every number of `info` whose name
        begins with "reward_", as MuJoCo's tell), summed: name -> (N,); a twin predicts only their sum.
    """

    values: np.ndarray
    lengths: np.ndarray
    first: Any
    past_threshold: float | None = None
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.values.mean())

    def ci95(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mean over episodes."""
        return bootstrap_mean(self.values)


def bootstrap_mean(
    values: np.ndarray, *, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean, 10,000 resamples (scipy)."""
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
    """Single observations, or dicts of them, as one array (N, ...), or a dict of such."""
    if isinstance(observations[0], dict):
        return {key: np.stack([part[key] for part in observations]) for key in observations[0]}
    return np.stack(observations)
