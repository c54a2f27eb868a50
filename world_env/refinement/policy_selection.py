"""Selection of a policy, and of the policy that plays the next real evaluation episodes.

The error of a twin's estimate is taken to be as large as its latest errors; a real episode has only sampling error.
The estimate counts like one real episode, and the half width of the interval shrinks with their number. The selected
policy has the highest lower bound. The contender, which plays the next real evaluation episodes, has the highest upper
bound [confidence bounds to find the best of several: Kalyanakrishnan et al. 2012, LUCB].
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from world_env.data.episode import Episode
from world_env.policies.protocol import Policy
from world_env.policy_evaluation.rollout_statistics import sample_first_observations
from world_env.results.round_log import PredictedReturn, RealEvaluation, RoundLog
from world_env.rollouts.learned import run_learned
from world_env.rollouts.returns import Returns
from world_env.simulation.config import OnUncertain
from world_env.twin.twin import Twin

ESTIMATE_EPISODES = 32
"""Learned episodes of one estimate."""
_CLEAR_SHARE = 0.1
"""Share of an estimate by which another policy must exceed the newest one before any real evaluation episode."""
_ERROR_WINDOW = 3
"""Number of latest real evaluations from which the twin's error is taken."""


@dataclass(frozen=True)
class PolicyEstimate:
    """Estimated return of a policy with a symmetric interval.

    mean: task units. half_width: of the interval, task units; None before any real evaluation episode.
    """

    mean: float
    half_width: float | None

    @property
    def low(self) -> float:
        """Lower bound."""
        return self.mean - (self.half_width or 0.0)

    @property
    def high(self) -> float:
        """Upper bound."""
        return self.mean + (self.half_width or 0.0)


def estimate_return(
    policy: Policy,
    twin: Twin,
    *,
    on_uncertain: OnUncertain = "ignore",
    seed: int = 0,
    discount: float = 1.0,
) -> float:
    """Mean learned return of a policy, task units, over `ESTIMATE_EPISODES` episodes.

    on_uncertain: of SimulatorConfig, as in the policy's training. discount: weight of step t is discount**t.
    """
    first = sample_first_observations(twin, ESTIMATE_EPISODES, seed)
    return run_learned(
        policy, twin, first, seed=seed, on_uncertain=on_uncertain, discount=discount
    ).mean


def real_evaluation(
    episodes: Sequence[Episode], horizon: int | None, log: RoundLog
) -> RealEvaluation | None:
    """Real returns of a round's contender, for the log of the next round; None without a whole episode.

    log: of the round that selected the contender.
    """
    whole = [e for e in episodes if e.terminated or (horizon is not None and len(e) >= horizon)]
    if not whole:
        return None
    returns = [float(e.rewards.sum(dtype=np.float64)) for e in whole]
    assert log.expected is not None  # there are rounds with a time limit only
    return RealEvaluation(
        round=log.round,
        policy=log.contender,
        returns=returns,
        predicted_return=log.expected,
    )


def combined_estimate(
    estimate: float, returns: Sequence[float], twin_error: float | None
) -> PolicyEstimate:
    """Combine a twin's estimate of one policy with the returns of its real episodes.

    estimate: learned return. returns: real returns; may be empty. twin_error: from `last_twin_error`.
    """
    count = 1 + len(returns)
    half_width = None if twin_error is None else twin_error / math.sqrt(count)
    return PolicyEstimate((estimate + sum(returns)) / count, half_width)


def predicted_return(
    learned: Returns, returns: Sequence[float], checks: Sequence[RealEvaluation]
) -> PredictedReturn:
    """Predicted real return of one policy, with an interval from real evaluations and members of the ensemble.

    learned: its learned returns. returns: its real returns; may be empty. checks: real evaluations of all rounds.
    The error of the learned return is taken to be as large as the latest errors in real evaluations, and as the largest
    distance between its mean and that of one member. Without both there is no interval.
    """
    errors = np.abs(learned.by_member() - learned.mean)
    known = [last_twin_error(checks), float(errors.max()) if len(errors) > 1 else None]
    error = max((each for each in known if each is not None), default=None)
    found = combined_estimate(learned.mean, returns, error)
    ends = (None, None) if found.half_width is None else (found.low, found.high)
    return PredictedReturn(mean=found.mean, low=ends[0], high=ends[1])


def last_twin_error(checks: Sequence[RealEvaluation]) -> float | None:
    """Largest absolute error of the predicted returns in the latest real evaluations; None without any.

    checks: as in the logs of the rounds, oldest first.
    """
    errors = [abs(check.predicted_return - statistics.fmean(check.returns)) for check in checks]
    return max(errors[-_ERROR_WINDOW:], default=None)


def returns_of(checks: Sequence[RealEvaluation]) -> dict[str, list[float]]:
    """Policy -> returns of all its real episodes."""
    found: dict[str, list[float]] = {}
    for check in checks:
        found.setdefault(check.policy, []).extend(check.returns)
    return found


def best_of(
    estimates: Mapping[str, float], checks: Sequence[RealEvaluation], newest: str
) -> tuple[str, str]:
    """(selected policy, contender) among the policies with estimates.

    Without real evaluation episodes both are the newest policy, unless another one's estimate is clearly higher.
    """
    twin_error, returns = last_twin_error(checks), returns_of(checks)
    if twin_error is None:
        best = max(estimates, key=estimates.__getitem__)
        clear = estimates[best] - estimates[newest] > _CLEAR_SHARE * abs(estimates[best])
        return (best, best) if clear else (newest, newest)
    combined = {
        name: combined_estimate(estimate, returns.get(name, []), twin_error)
        for name, estimate in estimates.items()
    }
    # Of equal policies, the newest one.
    names = [*combined][::-1]
    return (
        max(names, key=lambda name: combined[name].low),
        max(names, key=lambda name: combined[name].high),
    )
