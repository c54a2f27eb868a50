"""Robust normalisation of vector observations, changes and rewards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from world_env.batch import Observation, Statistics
from world_env.models.layers.vector_layout import VectorLayout

_SHORT = 1e-6
"""Square of the length below which a vector has no direction."""


class Normalizer(nn.Module):
    """The data's scales, and what ties its dimensions, as buffers: they travel with the weights.

    center, scale, change_scale, low, high: (D,).
    carried: (D,) 1 where the next value is the last one and a change, 0 where it is the center and a change.
    unit_vector: (D,) int64, the number of the unit vector that a dimension is part of, -1 for none.
    together: (D, D) 1 where two dimensions (or one and itself) are parts of the same one, else 0; empty without any.
    reward: (2, 2) center and scale of one step's reward, where the episode goes on and where it terminates.
    reward_range: (2,) lowest and highest reward in the data, task units.
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
    """Whether all dimensions are carried and none has to stay in a unit vector: nothing to do for them at a step."""

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
        """Take over the data's scales and ties."""

        def flat(parts: Observation) -> Tensor:
            return torch.cat([parts[key].flatten() for key in self.layout.shapes])

        for name in ("center", "scale", "change_scale", "low", "high", "carried"):
            getattr(self, name).copy_(flat(getattr(statistics, name)))
        self.unit_vector.copy_(flat(statistics.unit_vectors))
        going_on = (statistics.reward_center, statistics.reward_scale)
        terminal = (statistics.terminal_reward_center, statistics.terminal_reward_scale)
        self.reward.copy_(torch.tensor([going_on, terminal]))
        self.reward_range.copy_(torch.tensor([statistics.reward_low, statistics.reward_high]))
        self.look_again()

    def inert_buffers(self, prefix: str) -> tuple[str, ...]:
        """As `WorldModel.inert_buffers`, of a model that calls this one by `prefix`."""
        return (f"{prefix}.carried", f"{prefix}.unit_vector") if self.plain else ()

    def carry_as(self, older: Normalizer) -> None:
        """Add changes to what an older normaliser adds them to: its networks know no other way."""
        other = self.carried != older.carried
        self.change_scale.copy_(torch.where(other, older.change_scale, self.change_scale))
        self.carried.copy_(older.carried)
        self.look_again()

    def look_again(self) -> None:
        """What follows from `carried` and `unit_vector`, after they were set by hand."""
        number = self.unit_vector
        tied = bool((number >= 0).any())
        same = (number[:, None] == number) & (number >= 0) if tied else number.new_zeros(0, 0)
        self.together = same.to(self.center.dtype)
        self.plain = not tied and bool((self.carried == 1.0).all())

    def _load_from_state_dict(self, *given: Any) -> None:
        super()._load_from_state_dict(*given)
        self.look_again()

    def normalize(self, vector: Tensor) -> Tensor:
        """(..., D) centred and scaled; far outliers are tamed, not cut from the data."""
        return ((vector - self.center) / self.scale).clamp(-10.0, 10.0)

    def base(self, vector: Tensor) -> Tensor:
        """(..., D) what a change is added to: each dimension's last value, or the center where that says little."""
        return vector if self.plain else torch.lerp(self.center, vector, self.carried)

    def change(self, vector: Tensor, arrived: Tensor) -> Tensor:
        """(..., D) the change that leads from one vector to the other, in `change_scale` units; for targets."""
        return (arrived - self.base(vector)) / self.change_scale

    def moved(self, vector: Tensor, change: Tensor) -> Tensor:
        """As `arrive`, but free to leave the data: what a rollout in training looks at."""
        return self.hold_together(self.base(vector) + change * self.change_scale)

    def arrive(self, vector: Tensor, change: Tensor) -> Tensor:
        """The vector after a change given in `change_scale` units, kept near the data."""
        return self.hold_together(self._led(vector, change).clamp(self.low, self.high))

    def _led(self, vector: Tensor, change: Tensor) -> Tensor:
        return torch.addcmul(self.base(vector), change, self.change_scale)

    def hold_together(self, vector: Tensor) -> Tensor:
        """(..., D) with unit vectors (an angle's cosine and sine, a quaternion) of length 1 again.

        A network's small errors add up along the way, also in directions in which no state of the data ever lay.
        """
        if not len(self.together):
            return vector
        square = vector.square() @ self.together
        return vector * torch.where(square > _SHORT, square.clamp(min=_SHORT).rsqrt(), 1.0)

    def outside(self, vector: Tensor, change: Tensor) -> Tensor:
        """(...,) how far a change leads out of the data's range, in `change_scale` units; 0 inside.

        `low` and `high` stand a tenth of the data's width outside of it on either side.
        """
        margin = (self.high - self.low) / 12.0
        arrived = self._led(vector, change)
        excess = torch.maximum(self.low + margin - arrived, arrived - self.high + margin)
        return (excess / self.change_scale).clamp(min=0.0).amax(-1)

    def transition(self, vector: Tensor, action: Tensor, arrived: Tensor) -> Tensor:
        """(..., 3 D + A): the whole transition, the change at its own scale beside both ends."""
        return torch.cat([self.normalize(vector), action, *self.arrival(vector, arrived)], -1)

    def arrival(self, vector: Tensor, arrived: Tensor) -> tuple[Tensor, Tensor]:
        """(..., D) each: where a transition leads, and the change at its own scale."""
        change = ((arrived - vector) / self.change_scale).clamp(-10.0, 10.0)
        return self.normalize(arrived), change

    def reward_units(self, normalized: Tensor, *, terminal: bool = False) -> Tensor:
        """A normalised reward in task units, within what the data showed."""
        center, scale = self.reward[int(terminal)]
        low, high = self.reward_range
        return torch.addcmul(center, normalized, scale).clamp(low, high)

    def normalize_reward(self, reward: Tensor, *, terminal: bool = False) -> Tensor:
        """The inverse of `reward_units`, for training targets."""
        center, scale = self.reward[int(terminal)]
        return (reward - center) / scale
