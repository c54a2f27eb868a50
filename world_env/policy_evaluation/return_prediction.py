"""What a policy will earn in reality, said before it runs there, with an interval whose coverage is measured.

Split conformal prediction (Vovk et al. 2005; Lei et al. 2018) on learned minus real returns of a pool's policies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from world_env.errors import InvalidOptionError, StageError
from world_env.policies.saved_policy import load_policy
from world_env.policy_evaluation.correlation import PolicyReturns
from world_env.rollouts.actors import policy_actor
from world_env.rollouts.learned import run_learned
from world_env.twin.twin import Twin
from world_env.types import JSON

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from world_env.rollouts.actors import Actor

LEVEL = 0.9
"""Of the intervals."""
MIN_CALIBRATION = 10
"""Supported policies below which no interval is given."""
_SHARES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Candidates for the largest share of steps past the threshold that a supported policy may have."""
_WIDER = 1.5
"""How much wider an interval may be for the sake of policies that go further from the data."""
_SLACK = 0.01
"""How much larger than in the calibration that share may be."""


@dataclass(frozen=True)
class ReturnPrediction:
    """A forecast of a policy's mean real return: `mean, low, high = promise`.

    mean: the learned return less the twin's usual error. low, high: ends of a 90 % interval; both infinite where the
    twin cannot tell. past_threshold: share of learned steps past the twin's uncertainty threshold, None if unknown.
    reason: why it cannot tell; "" where it can.
    """

    mean: float
    low: float
    high: float
    past_threshold: float | None = None
    reason: str = ""

    def __iter__(self) -> Iterator[float]:
        return iter((self.mean, self.low, self.high))

    def __str__(self) -> str:
        if self.reason:
            return f"I cannot tell: {self.reason}"
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


def predict_return(
    policy: BaseAlgorithm | str | Path | Actor, twin: Twin, *, episodes: int = 100, seed: int = 0
) -> ReturnPrediction:
    """The real return that a policy will have, without running it in reality.

    policy: a Stable-Baselines3 model (deterministic), the folder of one, or a function (batched observations, rows)
        -> batched actions.
    Raises StageError for a twin that no pool has calibrated.
    """
    calibration = twin.fidelity.get("return_prediction")
    if not calibration:
        raise StageError(
            "this twin has no calibrated promise: judge a pool of policies in it first, with `world-env pool` and "
            "`world-env compare --twin FOLDER --pool POOL`"
        )
    return interval(calibration, *learned_return(actor_of(policy, twin), twin, episodes, seed=seed))


def learned_return(
    actor: Actor, twin: Twin, episodes: int, *, seed: int = 0
) -> tuple[float, float | None]:
    """(mean learned return, share past the threshold) from the twin's own starts, each begun equally often."""
    found = run_learned(actor, twin, own_starts(twin, episodes), seed=seed)
    return found.mean, found.past_threshold


def own_starts(twin: Twin, episodes: int) -> Any:
    """`episodes` first observations of the twin, its starts in turn, as batched environment arrays."""
    order = np.arange(episodes) % len(twin.starts)
    context = twin.starts.select(_tensor(order))
    return twin.codec.decode_observation(context.last())


def actor_of(policy: BaseAlgorithm | str | Path | Actor, twin: Twin) -> Actor:
    """Whatever acts, as a function of batched observations and row numbers."""
    if isinstance(policy, str | Path):
        policy = load_policy(policy, expect=twin.spec)
    if hasattr(policy, "predict"):
        return policy_actor(cast("BaseAlgorithm", policy))
    if not callable(policy):
        raise InvalidOptionError(
            f"the policy is {type(policy).__name__}: expected a Stable-Baselines3 model, its folder, or a function "
            "(batched observations, rows) -> batched actions"
        )
    return policy


def calibrate(policies: Sequence[PolicyReturns], *, level: float = LEVEL) -> JSON | None:
    """What `interval` needs, from policies whose real return is known; None where too few are supported.

    The usual error of a policy (learned minus real) is a line over its share of steps past the threshold, because a
    twin errs more where its data ends; half_width is the conformal quantile of what the line leaves over. The largest
    share that a policy may have is as large as keeps the interval within 1.5 times the narrowest that any would give.
    Returns {"level", "bias" (error without such steps), "bias_per_share", "half_width", "most_past_threshold",
    "calibrated_on": {"policies", "runs"}}; returns in task units.
    """
    found: list[JSON] = []
    for share in _SHARES:
        supported = [policy for policy in policies if (policy.past_threshold or 0.0) <= share]
        if len(supported) < MIN_CALIBRATION:
            continue
        shares = np.array([policy.past_threshold or 0.0 for policy in supported])
        errors = np.array([learned_return_of(policy) - policy.real.mean() for policy in supported])
        bias, slope = _line(shares, errors)
        found.append(
            {
                "level": level,
                "bias": bias,
                "bias_per_share": slope,
                "half_width": _quantile(np.abs(errors - bias - slope * shares), level),
                "most_past_threshold": min(share, float(shares.max()) + _SLACK),
                "calibrated_on": {
                    "policies": len(supported),
                    "runs": len({policy.run for policy in supported}),
                },
            }
        )
    if not found:
        return None
    narrowest = min(part["half_width"] for part in found)
    return [part for part in found if part["half_width"] <= _WIDER * narrowest][-1]


def interval(
    calibration: JSON | None, learned: float, past_threshold: float | None
) -> ReturnPrediction:
    """The promise of a policy with this mean learned return and share of steps past the threshold."""
    if calibration is None:
        reason = f"fewer than {MIN_CALIBRATION} policies of the pool stay in the twin's data"
        return ReturnPrediction(learned, -math.inf, math.inf, past_threshold, reason)
    # A twin without a threshold cannot say that a policy leaves its data.
    share, most = past_threshold or 0.0, calibration["most_past_threshold"]
    mean = learned - calibration["bias"] - calibration["bias_per_share"] * share
    if share > most:
        reason = (
            f"{100 * share:.1f} % of its steps are less certain than anything in the twin's data, policies that the "
            f"promise was calibrated on had at most {100 * most:.1f} %"
        )
        return ReturnPrediction(mean, -math.inf, math.inf, past_threshold, reason)
    half = calibration["half_width"]
    return ReturnPrediction(mean, mean - half, mean + half, past_threshold)


def leave_one_run_out(
    policies: Sequence[PolicyReturns], *, level: float = LEVEL
) -> list[ReturnPrediction]:
    """The promise of each policy, calibrated on the policies of all other runs."""
    runs = {policy.run for policy in policies}
    of_run = {
        run: calibrate([p for p in policies if p.run != run], level=level) for run in sorted(runs)
    }
    return [
        interval(of_run[policy.run], learned_return_of(policy), policy.past_threshold)
        for policy in policies
    ]


def coverage(
    policies: Sequence[PolicyReturns], promises: Sequence[ReturnPrediction], *, span: float
) -> JSON:
    """How often an interval held the real mean, its median width, and for how many policies one was given.

    span: range of real returns. Returns {"coverage90", "width_fraction", "supported_share"}.
    """
    given = [
        (policy, promise) for policy, promise in zip(policies, promises, strict=True) if not promise.reason
    ]  # fmt: skip
    held = [promise.low <= policy.real.mean() <= promise.high for policy, promise in given]
    widths = [promise.high - promise.low for _, promise in given]
    return {
        "coverage90": float(np.mean(held)) if held else None,
        "width_fraction": float(np.median(widths)) / span if widths and span > 0 else None,
        "supported_share": len(given) / len(policies),
    }


def learned_return_of(policy: PolicyReturns) -> float:
    """The mean learned return that a promise begins with: from the twin's own starts where that was measured."""
    return float(policy.learned.mean()) if policy.learned_return is None else policy.learned_return


def _line(shares: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """(intercept, slope) by Theil and Sen, which few wild policies do not move; flat where all shares are equal."""
    if np.ptp(shares) == 0:
        return float(np.median(errors)), 0.0
    from scipy.stats import theilslopes

    found = theilslopes(errors, shares)
    return float(found.intercept), float(found.slope)


def _quantile(scores: np.ndarray, level: float) -> float:
    """The conformal quantile: the ceil((n + 1) level)-th smallest score, the largest where there is none."""
    rank = min(math.ceil((len(scores) + 1) * level), len(scores))
    return float(np.sort(scores)[rank - 1])


def _tensor(order: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(order)
