"""Robust normalisation of vector observations, changes and rewards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from world_env.batch import Observation, Statistics
from world_env.data_range import MARGINS_PER_WIDENED_RANGE
from world_env.models.layers.vector_layout import VectorLayout

_MIN_SQUARED_LENGTH = 1e-6
"""Squared length below which a vector is not normalised: it has no reliable direction."""


class Normalizer(nn.Module):
    """Normaliser of observations, changes and rewards. Its buffers are saved with the weights of the model.

    center, scale, change_scale, low, high: (D,), see `world_env.batch.Statistics`.
    carried: (D,), 1 if the next value is the current value plus a change, 0 if it is the center plus a change.
    unit_vector: (D,) int64, group number of the unit vector that a dimension belongs to; -1 for none.
    together: (D, D), 1 if two dimensions (or one and itself) belong to the same unit vector, else 0; empty without unit
        vectors.
    reward: (2, 2), center and scale of the reward, for steps that do not terminate and for steps that terminate.
    reward_range: (2,), smallest and largest reward in the data, in task units.
    """

    center: Tensor
    scale: Tensor
    change_scale: Tensor
    low: Tensor
    high: Tensor
    carried: Tensor
    unit_vector: Tensor
    together: Tensor
    reward: Tensor
    reward_range: Tensor
    plain: bool = True
    """Whether all dimensions are carried and none belongs to a unit vector. A step can then skip both corrections."""

    def __init__(self, layout: VectorLayout) -> None:
        super().__init__()
        self.layout = layout
        for name, value in (("center", 0.0), ("scale", 1.0), ("change_scale", 1.0)):
            self.register_buffer(name, torch.full((layout.size,), value))
        self.register_buffer("low", torch.full((layout.size,), -1e6))
        self.register_buffer("high", torch.full((layout.size,), 1e6))
        self.register_buffer("carried", torch.ones(layout.size))
        self.register_buffer("unit_vector", torch.full((layout.size,), -1))
        self.register_buffer("together", torch.zeros(0, 0), persistent=False)
        self.register_buffer("reward", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
        self.register_buffer("reward_range", torch.tensor([-1e6, 1e6]))

    def prepare(self, statistics: Statistics) -> None:
        """Set all buffers from the statistics of the data."""

        def flat(parts: Observation) -> Tensor:
            return torch.cat([parts[key].flatten() for key in self.layout.shapes])

        for name in ("center", "scale", "change_scale", "low", "high", "carried"):
            getattr(self, name).copy_(flat(getattr(statistics, name)))
        self.unit_vector.copy_(flat(statistics.unit_vectors))
        usual = (statistics.reward_center, statistics.reward_scale)
        terminal = (statistics.terminal_reward_center, statistics.terminal_reward_scale)
        self.reward.copy_(torch.tensor([usual, terminal]))
        self.reward_range.copy_(torch.tensor([statistics.reward_low, statistics.reward_high]))
        self.look_again()

    def inert_buffers(self, prefix: str) -> tuple[str, ...]:
        """Inert buffers (`WorldModel.inert_buffers`) of a model whose attribute `prefix` is this normaliser."""
        return (f"{prefix}.carried", f"{prefix}.unit_vector") if self.plain else ()

    def carry_as(self, older: Normalizer) -> None:
        """Copy `carried` from an older normaliser, whose networks predict changes relative to that base."""
        different = self.carried != older.carried
        self.change_scale.copy_(torch.where(different, older.change_scale, self.change_scale))
        self.carried.copy_(older.carried)
        self.look_again()

    def look_again(self) -> None:
        """Update `together` and `plain` after `carried` or `unit_vector` were changed."""
        group = self.unit_vector
        grouped = bool((group >= 0).any())
        same = (group[:, None] == group) & (group >= 0) if grouped else group.new_zeros(0, 0)
        self.together = same.to(self.center.dtype)
        self.plain = not grouped and bool((self.carried == 1.0).all())

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.look_again()

    def normalize(self, vector: Tensor) -> Tensor:
        """Center and scale (..., D); values are clipped at 10 scales, so outliers stay in the data."""
        return ((vector - self.center) / self.scale).clamp(-10.0, 10.0)

    def base(self, vector: Tensor) -> Tensor:
        """Base of a change, (..., D): the current value of a carried dimension, the center of any other."""
        return vector if self.plain else torch.lerp(self.center, vector, self.carried)

    def change(self, vector: Tensor, arrived: Tensor) -> Tensor:
        """Change (..., D) from one vector to the next, in units of `change_scale`; the training target."""
        return (arrived - self.base(vector)) / self.change_scale

    def moved(self, vector: Tensor, change: Tensor) -> Tensor:
        """Apply a change as `arrive` does, without clipping to the range of the data; for rollouts in training."""
        return self.hold_together(self.base(vector) + change * self.change_scale)

    def arrive(self, vector: Tensor, change: Tensor) -> Tensor:
        """Apply a change in units of `change_scale`: the next vector (..., D), clipped to [`low`, `high`]."""
        return self.hold_together(self._add(vector, change).clamp(self.low, self.high))

    def _add(self, vector: Tensor, change: Tensor) -> Tensor:
        return torch.addcmul(self.base(vector), change, self.change_scale)

    def hold_together(self, vector: Tensor) -> Tensor:
        """Rescale all unit vectors (cosine and sine of an angle, a quaternion) in (..., D) to length 1.

        Without it, small errors accumulate over a rollout and lead to vectors that no state has.
        """
        if not len(self.together):
            return vector
        square = vector.square() @ self.together
        length = square.clamp(min=_MIN_SQUARED_LENGTH)
        return vector * torch.where(square > _MIN_SQUARED_LENGTH, length.rsqrt(), 1.0)

    def outside(self, vector: Tensor, change: Tensor) -> Tensor:
        """Distance (...,) by which a change leaves the range of the data, in units of `change_scale`; 0 inside.

        `low` and `high` include the margin, which is subtracted here.
        """
        margin = (self.high - self.low) / MARGINS_PER_WIDENED_RANGE
        arrived = self._add(vector, change)
        excess = torch.maximum(self.low + margin - arrived, arrived - self.high + margin)
        return (excess / self.change_scale).clamp(min=0.0).amax(-1)

    def transition(self, vector: Tensor, action: Tensor, arrived: Tensor) -> Tensor:
        """Normalised transition (..., 3 D + A): observation, action, next observation, and change."""
        return torch.cat([self.normalize(vector), action, *self.arrival(vector, arrived)], -1)

    def arrival(self, vector: Tensor, arrived: Tensor) -> tuple[Tensor, Tensor]:
        """(normalised next observation, change in units of `change_scale`), each (..., D)."""
        change = ((arrived - vector) / self.change_scale).clamp(-10.0, 10.0)
        return self.normalize(arrived), change

    def reward_units(self, normalized: Tensor, *, terminal: bool = False) -> Tensor:
        """Convert a normalised reward to task units, clipped to the range of the data.

        terminal: whether the reward is that of a terminal step.
        """
        center, scale = self.reward[int(terminal)]
        low, high = self.reward_range
        return torch.addcmul(center, normalized, scale).clamp(low, high)

    def normalize_reward(self, reward: Tensor, *, terminal: bool = False) -> Tensor:
        """Inverse of `reward_units` without clipping; the training target."""
        center, scale = self.reward[int(terminal)]
        return (reward - center) / scale
