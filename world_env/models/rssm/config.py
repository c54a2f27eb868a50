"""Configuration of the recurrent state-space models."""

from __future__ import annotations

from world_env.struct import Struct
from world_env.types import JSON


class RssmConfig(Struct, frozen=True, kw_only=True):
    """Network sizes and training settings of a recurrent state-space model. The defaults are for one CPU core."""

    deter: int = 192
    """Units of the recurrent, deterministic part of the state. More: longer memory, slower fit and steps."""
    groups: int = 16
    """Number of categorical variables in the stochastic part of the state. More: finer states, slower fit and steps."""
    classes: int = 16
    """Number of classes of each categorical variable, at least 2."""
    hidden: int = 128
    """Units of every hidden layer, at least 2. More: larger capacity, slower fit and steps."""
    patch: int = 4
    """Side of the pixel patches that become channels before the first convolution, in pixels. Larger: faster, with less
    detail. 1: no patches. Small images use smaller patches."""
    depth: int = 32
    """Channels after the first convolution of an image. Each further convolution doubles them. More: finer images,
    slower fit and steps."""
    vector_deviation: float = 0.05
    """Standard deviation of the decoder's distribution of vector observations, in normalised symlog units; pixels have
    1. Smaller: vectors have a larger weight in the loss. At 1 the model would ignore a short vector, because its
    information costs more KL divergence than it gains."""
    members: int = 5
    """Number of small networks whose disagreement is the uncertainty, at least 2. More: better estimate, slower fit."""
    window: int = 24
    """Steps of a training window; must exceed `context`. More: longer dependencies are learned, slower fit."""
    context: int = 5
    """Largest number of real observations from which a state is inferred. At the start of an episode there is one."""
    windows: int = 32
    """Windows per gradient step. More: smoother and slower gradient steps."""
    learning_rate: float = 1e-3
    """Peak learning rate (default of a fit)."""
    decoded: float = 0.25
    """Share of the images of a window, in (0, 1], that are decoded in a gradient step. Smaller: faster. Successive
    images are similar, and decoding is the most expensive part."""
    free_nats: float = 0.3
    """KL divergence between posterior and prior that is not penalised, in nats [Hafner et al. 2023, arXiv:2301.04104,
    eq. 5, with 1]. Larger: the posterior uses more information that the simulator must draw at random."""
    dynamics_weight: float = 1.0
    """Loss weight of the KL divergence that trains the prior towards the posterior. Larger: better predictions, worse
    reconstructions."""
    representation_weight: float = 0.1
    """Loss weight of the KL divergence that trains the posterior towards the prior. Larger: the state holds less
    information that is hard to predict."""
    unimix: float = 0.01
    """Share of the uniform distribution in every categorical distribution, in (0, 1). It bounds the KL divergence.
    Larger: more noise in the samples."""
    terminal_weight: float = 20.0
    """Largest weight of a terminal step in the loss, relative to other steps. Rare terminal steps get a weight up to
    this."""

    def __post_init__(self) -> None:
        images = (self.patch, self.depth)
        sizes = (self.deter, self.groups, self.context, self.windows)
        if min(*images, *sizes) < 1 or min(self.classes, self.members, self.hidden) < 2:
            raise ValueError(
                f"{self}: expected patch, depth, deter, groups, context and windows >= 1, and classes, members and "
                "hidden >= 2"
            )
        if self.window <= self.context:
            raise ValueError(
                f"window is {self.window} and context is {self.context}, expected window > context: the loss needs "
                "steps after the context"
            )
        if min(self.vector_deviation, self.learning_rate) <= 0.0:
            raise ValueError(
                f"vector_deviation is {self.vector_deviation} and learning_rate is {self.learning_rate}, expected both "
                "> 0"
            )
        if not 0.0 < self.decoded <= 1.0:
            raise ValueError(f"decoded is {self.decoded}, expected a share in (0, 1]")
        if not 0.0 < self.unimix < 1.0:
            raise ValueError(
                f"unimix is {self.unimix}, expected a share in (0, 1): with 0 the KL divergence could be infinite"
            )
        if self.free_nats < 0.0 or self.terminal_weight < 1.0:
            raise ValueError(
                f"free_nats is {self.free_nats} and terminal_weight is {self.terminal_weight}, expected free_nats >= 0 "
                "and terminal_weight >= 1"
            )


PRESETS: dict[str, JSON] = {
    "small": {},
    "large": {
        "deter": 512,
        "groups": 32,
        "classes": 32,
        "hidden": 512,
        "window": 64,
        "windows": 16,
        # With 1e-3 these wide layers learn to ignore the categorical variables.
        "learning_rate": 3e-4,
    },
}
"""Settings by preset. "small": the defaults, for one CPU core. "large": for a GPU, close to size S of DreamerV3
[Hafner et al. 2023, arXiv:2301.04104v1, table B.1]."""
