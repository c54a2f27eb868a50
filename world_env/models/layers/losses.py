"""How much steps weigh in a loss."""

from __future__ import annotations

import math

from torch import Tensor


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean; 0 where nothing weighs."""
    return (values * weight).sum() / weight.sum().clamp(min=1.0)


def terminal_weight(fraction: float, most: float) -> tuple[float, float]:
    """(logarithm of what a terminal step weighs in the loss, bias of the weighted logit before any evidence).

    Terminal steps weigh as much more as they are rarer, up to `most`; at first a head should say what is common.
    fraction: share of the data's steps that terminate.
    """
    share = max(fraction, 1e-6)
    log_weight = math.log(min(max((1.0 - share) / share, 1.0), most))
    return log_weight, math.log(share / (1.0 - min(share, 0.5))) + log_weight
