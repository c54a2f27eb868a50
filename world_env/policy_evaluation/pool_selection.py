"""Policies that are spread over the range of what they earn, and over the runs that they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from world_env.policy_evaluation.config import MAX_OF_A_FIFTH, MIN_POLICIES

MAX_OF_A_RUN = 4
"""Checkpoints of one run in a pool: they are alike, so more would only look like more evidence."""


@dataclass(frozen=True)
class Member:
    """One policy of a pool: "random", "scripted", or a folder below the pool's.

    run: which training run it comes from. noise: chance of a random action instead of its own.
    """

    name: str
    run: str
    source: str
    noise: float = 0.0


def choose(candidates: Sequence[Member], estimates: Sequence[float], wanted: int) -> list[Member]:
    """Up to `wanted` candidates, spread over the range of estimated returns and over the runs.

    At most 4 of a run, and no fifth of the range holds more than 40 % of them, as long as 20 are left.
    """
    values = np.asarray(estimates, float)
    left, chosen = list(range(len(candidates))), list[int]()
    of_run = {member.run: 0 for member in candidates}
    places = _fifth_of(values, values.min(), values.max())
    held = np.zeros(5, int)
    while left and len(chosen) < wanted:
        # The emptiest fifth first, then the run that gave least, then what is farthest from all that was chosen.
        def worth(i: int) -> tuple[float, ...]:
            near = min((abs(values[i] - values[j]) for j in chosen), default=np.inf)
            return (-held[places[i]], -of_run[candidates[i].run], near)

        best = max(left, key=worth)
        left.remove(best)
        chosen.append(best)
        held[places[best]] += 1
        of_run[candidates[best].run] += 1
        left = [i for i in left if of_run[candidates[i].run] < MAX_OF_A_RUN]
    while len(chosen) > MIN_POLICIES and held.max() > MAX_OF_A_FIFTH * len(chosen):
        crowded = [i for i in chosen if places[i] == held.argmax()]
        last = max(crowded, key=lambda i: of_run[candidates[i].run])
        chosen.remove(last)
        held[places[last]] -= 1
        of_run[candidates[last].run] -= 1
    return [candidates[i] for i in sorted(chosen, key=lambda i: values[i])]


def fifths(returns: Sequence[float]) -> list[float]:
    """Share of the policies in each fifth of their range of mean returns, the lowest first."""
    values = np.asarray(returns, float)
    counts = np.bincount(_fifth_of(values, values.min(), values.max()), minlength=5)
    return [round(float(share), 4) for share in counts / len(values)]


def _fifth_of(values: np.ndarray, low: float, high: float) -> np.ndarray:
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return np.minimum((5 * share).astype(int), 4)
