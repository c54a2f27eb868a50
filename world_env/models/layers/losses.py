"""Weights of steps in a loss."""

from __future__ import annotations

import math

from torch import Tensor


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean with a total weight of at least 1; 0 if all weights are 0."""
    return (values * weight).sum() / weight.sum().clamp(min=1.0)


def terminal_weight(fraction: float, largest: float) -> tuple[float, float]:
    """Loss weight of terminal steps, and initial bias of the termination logit.

    fraction: share of the steps that terminate. largest: upper bound of the weight.
    Returns (logarithm of the weight, bias). The weight is the ratio of other steps to terminal steps, in [1, largest].
    With this bias an untrained model predicts the share of terminal steps.
    """
    share = max(fraction, 1e-6)
    log_weight = math.log(min(max((1.0 - share) / share, 1.0), largest))
    return log_weight, math.log(share / (1.0 - min(share, 0.5))) + log_weight
