"""Which policy to leave, and which one to look at in reality next: what twins think and what spot checks showed.

A twin's word is wrong by about as much as its last ones were; a real episode is off by chance only. Here the twin's
word counts like one real episode, and the doubt shrinks with their number. The policy that is left is the best one at
the lower end of its doubt, the next one that is looked at is the best one at the upper end: who may be better is tried,
who is known to be good is kept [confidence bounds to find the best of several: Kalyanakrishnan et al. 2012, LUCB].
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from world_env.data.episode import Episode
from world_env.types import JSON

_CLEARLY = 0.1
"""Share of an estimate by which another policy has to be better than the newest one while nothing was checked."""
_REMEMBERED = 3
"""Spot checks whose misses say how wrong a twin is."""


@dataclass(frozen=True)
class PolicyEstimate:
    """What is thought of a policy. mean: its return, task units. doubt: half width; None before any spot check."""

    mean: float
    doubt: float | None

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - (self.doubt or 0.0)

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + (self.doubt or 0.0)


def spot_check(
    episodes: Sequence[Episode], horizon: int | None, number: int, log: JSON
) -> JSON | None:
    """What whole episodes of a round's contender returned, for the next round's log; None where none was whole.

    number, log: of the round that named the contender.
    """
    whole = [e for e in episodes if e.terminated or (horizon is not None and len(e) >= horizon)]
    if not whole:
        return None
    returns = [float(e.rewards.sum(dtype=np.float64)) for e in whole]
    return {
        "round": number,
        "policy": log["contender"],
        "returns": returns,
        "predicted_return": log["expected"],
    }


def standing(estimate: float, returns: Sequence[float], miss: float | None) -> PolicyEstimate:
    """What is thought of one policy.

    estimate: the twin's word. returns: of its real episodes, if it played any. miss: how wrong the twin is, from
    `last_miss`.
    """
    count = 1 + len(returns)
    doubt = None if miss is None else miss / math.sqrt(count)
    return PolicyEstimate((estimate + sum(returns)) / count, doubt)


def last_miss(checks: Sequence[JSON]) -> float | None:
    """The largest difference between a twin's word and what came, over the last spot checks; None without any.

    checks: as in a round's log, oldest first.
    """
    missed = [
        abs(check["predicted_return"] - statistics.fmean(check["returns"])) for check in checks
    ]
    return max(missed[-_REMEMBERED:], default=None)


def returns_of(checks: Sequence[JSON]) -> dict[str, list[float]]:
    """Policy -> returns of all its real episodes."""
    found: dict[str, list[float]] = {}
    for check in checks:
        found.setdefault(check["policy"], []).extend(check["returns"])
    return found


def best_of(estimates: Mapping[str, float], checks: Sequence[JSON], newest: str) -> tuple[str, str]:
    """(who is left, who is looked at next) of policies with estimates.

    Before the first spot check both are the newest one, unless another is thought better by more than estimates
    scatter.
    """
    miss, returns = last_miss(checks), returns_of(checks)
    if miss is None:
        best = max(estimates, key=estimates.__getitem__)
        clear = estimates[best] - estimates[newest] > _CLEARLY * abs(estimates[best])
        return (best, best) if clear else (newest, newest)
    standings = {
        name: standing(estimate, returns.get(name, []), miss)
        for name, estimate in estimates.items()
    }
    # The newest of those that are equal.
    names = [*standings][::-1]
    return (
        max(names, key=lambda name: standings[name].low),
        max(names, key=lambda name: standings[name].high),
    )
