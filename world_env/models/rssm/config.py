"""The sizes and training choices of a recurrent state-space model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RssmConfig:
    """Sizes and training choices of a recurrent state-space model; the defaults suit one CPU core."""

    deter: int = 192
    """Units of the recurrent part of a state."""
    groups: int = 16
    """Categorical variables of the stochastic part."""
    classes: int = 16
    """Classes of each of them."""
    hidden: int = 128
    """Units of every hidden layer."""
    patch: int = 4
    """Side of the squares of pixels that are one place with many channels for the convolutions: with 1 most of the time
    goes into the finest layers."""
    depth: int = 32
    """Channels after an image's first convolution; they double with every further one."""
    vector_deviation: float = 0.05
    """How exactly vectors have to be shown: the deviation that their normalised, squashed numbers may have. With 1, as
    pixels have, a few numbers are worth less than the nats that tell them."""
    members: int = 5
    """Small networks whose disagreement is the uncertainty; at least 2."""
    window: int = 24
    """Steps of the windows to learn from."""
    context: int = 5
    """Real observations that a state is inferred from, at most, where there are so many; a true start has one."""
    windows: int = 32
    """Windows an update."""
    learning_rate: float = 1e-3
    """Peak step size of a fit, where nobody says another one."""
    decoded: float = 0.25
    """Share of a window's images that are decoded an update: neighbours look alike, and decoding costs most."""
    free_nats: float = 0.3
    """What the posterior may know beyond the prior at no price [Hafner et al. 2023, arXiv:2301.04104, eq. 5, with 1]:
    what it knows more, a simulator draws at random."""
    dynamics_weight: float = 1.0
    """Of the prior's way to the posterior."""
    representation_weight: float = 0.1
    """Of the posterior's way to the prior."""
    unimix: float = 0.01
    """Share of every categorical that is uniform."""
    terminal_weight: float = 20.0
    """Most that a terminal step weighs more than another in the loss."""

    def __post_init__(self) -> None:
        images = (self.patch, self.depth)
        sizes = (self.deter, self.groups, self.context, self.windows)
        if min(*images, *sizes) < 1 or min(self.classes, self.members, self.hidden) < 2:
            raise ValueError(
                f"{self}: expected sizes of at least 1, and at least 2 classes, members and hidden units"
            )
        if self.window <= self.context:
            raise ValueError(
                f"window is {self.window} and context {self.context}: expected a window longer than the context, "
                "because what follows on it is learned too"
            )
        if min(self.vector_deviation, self.learning_rate) <= 0.0:
            raise ValueError(
                f"vector_deviation is {self.vector_deviation} and learning_rate {self.learning_rate}: expected more "
                "than 0"
            )
        if not 0.0 < self.decoded <= 1.0:
            raise ValueError(f"decoded is {self.decoded}, expected a share in (0, 1]")
        if not 0.0 < self.unimix < 1.0:
            raise ValueError(
                f"unimix is {self.unimix}, expected a share in (0, 1): without any, what is held to be "
                "impossible would cost infinitely much"
            )
        if self.free_nats < 0.0 or self.terminal_weight < 1.0:
            raise ValueError(
                f"free_nats is {self.free_nats} and terminal_weight {self.terminal_weight}: expected at least 0 and 1"
            )


@dataclass(frozen=True)
class LargeRssmConfig(RssmConfig):
    """Sizes for a GPU, about those of DreamerV3's S [Hafner et al. 2023, arXiv:2301.04104v1, table B.1]."""

    deter: int = 512
    groups: int = 32
    classes: int = 32
    hidden: int = 512
    window: int = 64
    windows: int = 16
    learning_rate: float = 3e-4
    """With 1e-3, layers so wide move too far at a time: draws are ignored before they are of use."""
