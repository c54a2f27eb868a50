"""Selection of pool policies, spread over the range of returns and over training runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from world_env.policy_evaluation.config import MAX_OF_A_FIFTH, MIN_POLICIES

MAX_OF_A_RUN = 4
"""Most policies of one training run in a pool: policies of a run are correlated."""


@dataclass(frozen=True)
class Member:
    """One policy of a pool.

    run: its training run. source: "random", "scripted", or a folder below that of the pool.
    noise: probability of a random action in place of the policy's own.
    """

    name: str
    run: str
    source: str
    noise: float = 0.0


def choose(candidates: Sequence[Member], estimates: Sequence[float], wanted: int) -> list[Member]:
    """Choose up to `wanted` candidates, spread over the range of estimated returns and over the runs.

    At most `MAX_OF_A_RUN` of a run. No fifth of the range has more than `MAX_OF_A_FIFTH` of them, as long as
    `MIN_POLICIES` are left.
    """
    values = np.asarray(estimates, float)
    left, chosen = list(range(len(candidates))), list[int]()
    of_run = {member.run: 0 for member in candidates}
    places = _fifth_of(values, values.min(), values.max())
    counts = np.zeros(5, int)
    while left and len(chosen) < wanted:
        # The emptiest fifth first, then the run with fewest chosen, then the largest distance to all chosen.
        def priority(i: int) -> tuple[float, ...]:
            near = min((abs(values[i] - values[j]) for j in chosen), default=np.inf)
            return (-counts[places[i]], -of_run[candidates[i].run], near)

        best = max(left, key=priority)
        left.remove(best)
        chosen.append(best)
        counts[places[best]] += 1
        of_run[candidates[best].run] += 1
        left = [i for i in left if of_run[candidates[i].run] < MAX_OF_A_RUN]
    while len(chosen) > MIN_POLICIES and counts.max() > MAX_OF_A_FIFTH * len(chosen):
        crowded = [i for i in chosen if places[i] == counts.argmax()]
        last = max(crowded, key=lambda i: of_run[candidates[i].run])
        chosen.remove(last)
        counts[places[last]] -= 1
        of_run[candidates[last].run] -= 1
    return [candidates[i] for i in sorted(chosen, key=lambda i: values[i])]


def range_shares(returns: Sequence[float]) -> list[float]:
    """Share of the policies in each fifth of their range of mean returns, the lowest first."""
    values = np.asarray(returns, float)
    counts = np.bincount(_fifth_of(values, values.min(), values.max()), minlength=5)
    return [round(float(share), 4) for share in counts / len(values)]


def _fifth_of(values: np.ndarray, low: float, high: float) -> np.ndarray:
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return np.minimum((5 * share).astype(int), 4)
