"""Feature extractor that normalises observations by the statistics of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from world_env.errors import SpaceMismatchError

_NORMALIZED_LIMIT = 10.0


class NormalizedFeatures(nn.Module):
    """Flat observations as (x - mean) / scale, clipped: a Stable-Baselines3 features extractor.

    The normalisation travels inside the policy, so no pickle of a wrapper is needed to use it.
    mean, scale: D numbers each, in the observation's own units.
    """

    def __init__(
        self, observation_space: spaces.Box, mean: Sequence[float], scale: Sequence[float]
    ) -> None:
        super().__init__()
        self.features_dim = int(np.prod(observation_space.shape, dtype=int))
        if not len(mean) == len(scale) == self.features_dim:
            raise SpaceMismatchError(
                f"{len(mean)} means and {len(scale)} scales for {self.features_dim} observation "
                "dimensions: take the statistics from data of this environment"
            )
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(list(scale), dtype=torch.float32))

    def forward(self, observation: Tensor) -> Tensor:
        """(B, *O) to (B, D)."""
        normalized = (observation.flatten(1) - self.mean) / self.scale
        return normalized.clamp(-_NORMALIZED_LIMIT, _NORMALIZED_LIMIT)
