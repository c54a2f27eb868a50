"""Prediction of a policy's real return from its learned return, with an interval of measured coverage.

Split conformal prediction (Vovk et al. 2005; Lei et al. 2018) on the return gaps of a policy pool.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from world_env.device import torch_defaults
from world_env.errors import StageError
from world_env.policies.loading import AnyPolicy, as_policy
from world_env.policies.protocol import Policy
from world_env.policy_evaluation.correlation import PolicyReturns
from world_env.results.fidelity import PolicyCount, ReturnCalibration
from world_env.rollouts.learned import run_learned
from world_env.rollouts.returns import Returns
from world_env.twin.twin import Twin

LEVEL = 0.9
"""Nominal coverage of the intervals."""
MIN_CALIBRATION = 10
"""Fewest supported policies of an interval."""
_SHARES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Candidates for the largest share of out-of-distribution steps of a supported policy."""
_WIDER = 1.5
"""Largest factor by which an interval may widen to support policies with more out-of-distribution steps."""
_SLACK = 0.01
"""Tolerance of that share beyond its largest value in the calibration."""


@dataclass(frozen=True)
class ReturnPrediction:
    """Predicted real return of a policy: `mean, low, high = prediction`.

    mean: learned return minus the usual return gap, task units.
    low, high: 90 % interval; infinite where there is none.
    past_threshold: share of the policy's learned steps that are out of distribution; None if unknown.
    reason: why there is no interval; "" where there is one.
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
            return f"no interval: {self.reason}"
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


@torch_defaults()
def predict_return(
    policy: AnyPolicy,
    twin: Twin,
    *,
    episodes: int = 100,
    seed: int = 0,
) -> ReturnPrediction:
    """Predict the mean real return of a policy from episodes in the twin. Takes no real step.

    policy: what `world_env.policies.as_policy` takes. A Stable-Baselines3 model acts deterministically.
    episodes: learned episodes of the prediction. seed: seed of these episodes.
    Raises StageError for a twin without calibration by a policy pool, InvalidOptionError for another kind of policy.
    """
    calibration = twin.fidelity.return_prediction
    if calibration is None:
        raise StageError(
            "this twin has no calibration for predicted returns: make a policy pool with `world-env pool`, and "
            "evaluate the twin with `world-env compare --twin FOLDER --pool POOL`"
        )
    found = learned_returns(as_policy(policy, twin.spec), twin, episodes, seed=seed)
    return interval(calibration, found.mean, found.past_threshold)


def learned_returns(policy: Policy, twin: Twin, episodes: int, *, seed: int = 0) -> Returns:
    """Learned returns over the initial states of the twin in turn."""
    return run_learned(policy, twin, own_starts(twin, episodes), seed=seed)


def own_starts(twin: Twin, episodes: int) -> Any:
    """`episodes` first observations of the twin, its initial states in turn, batched as in the environment."""
    order = np.arange(episodes) % len(twin.starts)
    context = twin.starts.select(_tensor(order))
    return twin.codec.decode_observation(context.last())


def calibrate(
    policies: Sequence[PolicyReturns], *, level: float = LEVEL
) -> ReturnCalibration | None:
    """Calibrate `interval` on policies with known real returns. None where too few policies are supported.

    The usual return gap of a policy is a line over its share of out-of-distribution steps, because the errors of a twin
    grow outside its data. half_width is the conformal quantile of the residuals. A policy is supported up to the
    largest share for which the interval is at most 1.5 times as wide as the narrowest one.
    """
    found: list[ReturnCalibration] = []
    for share in _SHARES:
        supported = [policy for policy in policies if (policy.past_threshold or 0.0) <= share]
        if len(supported) < MIN_CALIBRATION:
            continue
        shares = np.array([policy.past_threshold or 0.0 for policy in supported])
        errors = np.array([learned_return_of(policy) - policy.real.mean() for policy in supported])
        bias, slope = _line(shares, errors)
        found.append(
            ReturnCalibration(
                level=level,
                bias=bias,
                bias_per_share=slope,
                half_width=_quantile(np.abs(errors - bias - slope * shares), level),
                most_past_threshold=min(share, float(shares.max()) + _SLACK),
                calibrated_on=PolicyCount(
                    policies=len(supported), runs=len({policy.run for policy in supported})
                ),
            )
        )
    if not found:
        return None
    narrowest = min(part.half_width for part in found)
    return [part for part in found if part.half_width <= _WIDER * narrowest][-1]


def interval(
    calibration: ReturnCalibration | None, learned: float, past_threshold: float | None
) -> ReturnPrediction:
    """Predicted return of a policy with this mean learned return and share of out-of-distribution steps."""
    if calibration is None:
        reason = f"fewer than {MIN_CALIBRATION} policies of the pool have few out-of-distribution steps in the twin"
        return ReturnPrediction(learned, -math.inf, math.inf, past_threshold, reason)
    # Without a threshold no step counts as out of distribution.
    share, most = past_threshold or 0.0, calibration.most_past_threshold
    mean = learned - calibration.bias - calibration.bias_per_share * share
    if share > most:
        reason = (
            f"{100 * share:.1f} % of the policy's steps are out of distribution, but at most {100 * most:.1f} % in the "
            "calibration"
        )
        return ReturnPrediction(mean, -math.inf, math.inf, past_threshold, reason)
    half = calibration.half_width
    return ReturnPrediction(mean, mean - half, mean + half, past_threshold)


def leave_one_run_out(
    policies: Sequence[PolicyReturns], *, level: float = LEVEL
) -> list[ReturnPrediction]:
    """Predicted return of each policy, calibrated on the policies of all other runs."""
    runs = {policy.run for policy in policies}
    of_run = {
        run: calibrate([p for p in policies if p.run != run], level=level) for run in sorted(runs)
    }
    return [
        interval(of_run[policy.run], learned_return_of(policy), policy.past_threshold)
        for policy in policies
    ]


def coverage(
    policies: Sequence[PolicyReturns], predictions: Sequence[ReturnPrediction], *, span: float
) -> dict[str, Any]:
    """Coverage and width of intervals, and share of policies with one.

    span: range of real returns, task units. Returns {"coverage90" (share of intervals that contain the real mean),
    "width_fraction" (median width as a share of span), "supported_share"}.
    """
    given = [
        (policy, predicted)
        for policy, predicted in zip(policies, predictions, strict=True)
        if not predicted.reason
    ]
    held = [predicted.low <= policy.real.mean() <= predicted.high for policy, predicted in given]
    widths = [predicted.high - predicted.low for _, predicted in given]
    return {
        "coverage90": float(np.mean(held)) if held else None,
        "width_fraction": float(np.median(widths)) / span if widths and span > 0 else None,
        "supported_share": len(given) / len(policies),
    }


def learned_return_of(policy: PolicyReturns) -> float:
    """Mean learned return that a prediction uses: from the twin's initial states where that was measured."""
    return float(policy.learned.mean()) if policy.learned_return is None else policy.learned_return


def _line(shares: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """(intercept, slope) of the Theil-Sen estimator, robust to outliers; slope 0 where all shares are equal."""
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
