"""Past observations and actions as inputs of a step, for dead times, lags and velocities that no sensor measures."""

from __future__ import annotations

import torch
from torch import Tensor

from world_env.batch import Context
from world_env.models.layers.normalizer import Normalizer
from world_env.models.layers.vector_layout import VectorLayout


class History:
    """The K - 1 steps before the current observation: (..., K - 1, D + A), observation and action, oldest first.

    Before the start of an episode, and of a shorter context, the oldest known observation is repeated with actions 0.
    """

    def __init__(self, steps: int, layout: VectorLayout, actions: int) -> None:
        self.past, self.layout, self.actions = steps - 1, layout, actions

    def __len__(self) -> int:
        """Number of inputs, (K - 1) (D + A)."""
        return self.past * (self.layout.size + self.actions)

    def of(self, context: Context) -> Tensor:
        """History (B, K - 1, D + A) of contexts."""
        vectors = self.layout.flatten(context.observations)
        ages = torch.arange(self.past, 0, -1, device=vectors.device)
        place = context.length[:, None] - 1 - ages
        known = (place >= 0)[..., None]
        place = place.clamp(min=0)[..., None]
        # One column more, so that a context of one observation has a column to gather from.
        actions = torch.cat([context.actions, vectors.new_zeros(len(vectors), 1, self.actions)], 1)
        observed = vectors.gather(1, place.expand(-1, -1, self.layout.size))
        taken = actions.gather(1, place.expand(-1, -1, self.actions)) * known
        return torch.cat([observed, taken], -1)

    def after(self, history: Tensor, vector: Tensor, action: Tensor) -> Tensor:
        """History after one more step, from a vector (..., D) with an action (..., A)."""
        newest = torch.cat([vector, action], -1).unsqueeze(-2)
        return torch.cat([history[..., 1:, :], newest], -2)

    def inputs(self, history: Tensor, normalizer: Normalizer) -> Tensor:
        """Inputs of the dynamics, (..., (K - 1) (D + A)): normalised observations, and actions."""
        observed, taken = history.split([self.layout.size, self.actions], -1)
        return torch.cat([normalizer.normalize(observed), taken], -1).flatten(-2)
