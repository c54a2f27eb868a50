"""Normalisation inside of policies: observations by the statistics of a data set, and the units of hidden layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from world_env.errors import SpaceMismatchError

NORMALIZED_LIMIT = 10.0
"""Bound of a normalised value, in scales."""
LAYER_NORM_EPSILON = 1e-5
"""Added to the variance of a layer, as by default in torch."""


class NormalizedFeatures(nn.Module):
    """Stable-Baselines3 features extractor: flat observations as (x - mean) / scale, clipped.

    The statistics are stored inside the policy, so the policy needs no separate `VecNormalize` file.
    mean, scale: D numbers each, in the units of the observation.
    Raises SpaceMismatchError if D is not the number of observation dimensions.
    """

    def __init__(
        self, observation_space: spaces.Box, mean: Sequence[float], scale: Sequence[float]
    ) -> None:
        super().__init__()
        self.features_dim = int(np.prod(observation_space.shape, dtype=int))
        if not len(mean) == len(scale) == self.features_dim:
            raise SpaceMismatchError(
                f"normalization has {len(mean)} means and {len(scale)} scales, expected "
                f"{self.features_dim} of each, one per observation dimension: compute them from "
                "data of this environment"
            )
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(list(scale), dtype=torch.float32))

    def forward(self, observation: Tensor) -> Tensor:
        """Normalise observations (B, *O) to features (B, D)."""
        normalized = (observation.flatten(1) - self.mean) / self.scale
        return normalized.clamp(-NORMALIZED_LIMIT, NORMALIZED_LIMIT)


def normalizers(network: nn.Module) -> list[NormalizedFeatures]:
    """Return all normalising features extractors of a policy."""
    return [each for each in network.modules() if isinstance(each, NormalizedFeatures)]


class LayerNormReLU(nn.Module):
    """Activation function: layer normalisation without weights (Ba et al. 2016, arXiv:1607.06450), then ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """Map the outputs of a linear layer (B, F) to (B, F)."""
        return torch.relu(nn.functional.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPSILON))


class Scale(nn.Module):
    """Multiply by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F) to (B, F)."""
        return x * self.factor
