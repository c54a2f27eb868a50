"""Configuration of the ensemble family."""

from __future__ import annotations

from world_env.struct import Struct


class EnsembleConfig(Struct, frozen=True, kw_only=True):
    """Network sizes and training settings of an ensemble."""

    members: int = 5
    """Number of ensemble members, at least 2. More members improve the uncertainty estimate; time and memory of a fit
    are proportional to the number."""
    width: int = 128
    """Units per hidden layer of the dynamics network. More: larger capacity, slower fit and steps."""
    layers: int = 3
    """Number of hidden layers of the dynamics network. More: larger capacity, slower fit and steps."""
    head_width: int = 96
    """Units per hidden layer of the network for reward and termination, which has two hidden layers."""
    history: int = 1
    """Observations that a step takes as inputs, the current one included, and the actions between them. More: for dead
    times, lags and velocities that are not observed; slower fit and steps. 1: the current observation only."""
    rollout: int = 8
    """Steps of the multi-step part of the training, at least 1: the model is rolled out from its own predictions. More:
    smaller errors over long rollouts, slower fit. 1: no multi-step part."""
    one_step_share: float = 0.85
    """Share of the gradient steps, in [0, 1], that train one-step prediction. The remaining ones train `rollout` steps
    and are slower."""
    terminal_weight: float = 20.0
    """Largest weight of a terminal step in the loss, relative to other steps. Rare terminal steps get a weight up to
    this."""
    beta: float = 0.5
    """Exponent of beta-NLL: the likelihood of a sample is weighted by variance ** beta [Seitzer et al. 2022,
    arXiv:2203.09168]. 0: plain likelihood. 1: the mean is trained as with a squared error."""
    huber_delta: float = 5.0
    """Threshold of the Huber loss of prediction errors, in standard deviations of the predicted noise [Huber 1964].
    Larger errors count linearly, which limits the effect of rare spikes."""
    log_std_min: float = -6.0
    """Smallest natural logarithm of the noise's standard deviation, in units of the typical change per step. Limits the
    weight of steps without noise."""
    log_std_max: float = 1.0
    """Largest natural logarithm of the noise's standard deviation, in the same unit. Limits the predicted noise."""
    partner_every: int = 2
    """Steps between two comparisons with another member, if uncertainty is computed. Larger: faster, less exact."""

    def __post_init__(self) -> None:
        if self.members < 2:
            raise ValueError(
                f"members is {self.members}, expected at least 2: uncertainty is their disagreement"
            )
        if min(self.width, self.layers, self.head_width) < 1:
            raise ValueError(
                f"width is {self.width}, layers is {self.layers} and head_width is {self.head_width}, expected each at "
                "least 1"
            )
        if self.history < 1:
            raise ValueError(f"history is {self.history}, expected at least 1 observation")
        if self.rollout < 1 or not 0.0 <= self.one_step_share <= 1.0:
            raise ValueError(
                f"rollout is {self.rollout} and one_step_share is {self.one_step_share}, expected rollout >= 1 and "
                "one_step_share in [0, 1]"
            )
        if self.huber_delta <= 0.0:
            raise ValueError(
                f"huber_delta is {self.huber_delta}, expected > 0 (standard deviations of the noise)"
            )
        if self.partner_every < 1:
            raise ValueError(f"partner_every is {self.partner_every}, expected at least 1 step")
