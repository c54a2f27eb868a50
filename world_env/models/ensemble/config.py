"""The sizes and training choices of an ensemble."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EnsembleConfig:
    """Sizes and training choices of an ensemble."""

    members: int = 5
    """Independent networks; disagreement needs at least 2."""
    width: int = 128
    """Units per hidden layer of the dynamics."""
    layers: int = 3
    """Hidden layers of the dynamics."""
    head_width: int = 96
    """Units per hidden layer (two) of the reward and termination heads."""
    rollout: int = 8
    """Steps k of the autoregressive part of training."""
    one_step_share: float = 0.85
    """Share of the updates that train one step; the rest trains `rollout` steps."""
    terminal_weight: float = 20.0
    """Most that a terminal step weighs more than another in the loss."""
    beta: float = 0.5
    """Likelihoods are weighted by variance ** beta [beta-NLL: Seitzer et al. 2022, arXiv:2203.09168]."""
    outlier: float = 5.0
    """Miss, in units of its own noise, from which it teaches no more than that [Huber 1964]: else one rare spike weighs
    more than the batch it is in."""
    log_std_min: float = -6.0
    """Least logarithm of the noise, in units of one step's typical change."""
    log_std_max: float = 1.0
    """Largest logarithm of the noise, same unit."""
    partner_every: int = 2
    """Steps from one look at another member's opinion to the next, where uncertainty is asked for."""

    def __post_init__(self) -> None:
        if self.members < 2:
            raise ValueError(f"members is {self.members}, but disagreement needs at least 2")
        if self.rollout < 1 or not 0.0 <= self.one_step_share <= 1.0:
            raise ValueError(
                f"rollout is {self.rollout} and one_step_share {self.one_step_share}: expected at least 1 step "
                "and a share in 0..1"
            )
        if self.outlier <= 0.0:
            raise ValueError(f"outlier is {self.outlier}, expected more than 0 units of noise")
        if self.partner_every < 1:
            raise ValueError(f"partner_every is {self.partner_every}, expected at least 1 step")
