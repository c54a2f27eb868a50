"""Layers that families share: robust normalisation of vectors, and networks of independent members."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from world_env.batch import Observation, Statistics
from world_env.codec import encoded_shape, is_image, observation_spaces
from world_env.errors import UnsupportedSpaceError
from world_env.spec import WorldSpec


class VectorLayout:
    """How the keys of an observation lie in one flat vector of D numbers."""

    def __init__(self, spec: WorldSpec, *, family: str) -> None:
        parts = observation_spaces(spec.observation_space)
        images = [key for key, space in parts.items() if is_image(space)]
        if images:
            raise UnsupportedSpaceError(
                f"family {family!r} predicts vectors, but observation {images[0]!r} is an image {parts[images[0]]}: "
                "use a family with an image encoder"
            )
        self.shapes = {key: encoded_shape(space) for key, space in parts.items()}
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.size = sum(self.sizes)

    def flatten(self, observation: Observation) -> Tensor:
        """Key -> (..., *O) as one (..., D)."""
        parts = [observation[key].flatten(-len(shape)) for key, shape in self.shapes.items()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def unflatten(self, vector: Tensor) -> Observation:
        """(..., D) as key -> (..., *O)."""
        parts = vector.split(self.sizes, -1)
        return {
            key: part.unflatten(-1, shape)
            for part, (key, shape) in zip(parts, self.shapes.items(), strict=True)
        }


class Normalizer(nn.Module):
    """The data's scales as buffers, so that they travel with the weights.

    center, scale, change_scale, low, high: (D,).
    reward: (2, 2) center and scale of one step's reward, where the episode goes on and where it terminates.
    reward_range: (2,) lowest and highest reward in the data, task units.
    """

    center: Tensor
    scale: Tensor
    change_scale: Tensor
    low: Tensor
    high: Tensor
    reward: Tensor
    reward_range: Tensor

    def __init__(self, layout: VectorLayout) -> None:
        super().__init__()
        self.layout = layout
        for name, value in (("center", 0.0), ("scale", 1.0), ("change_scale", 1.0)):
            self.register_buffer(name, torch.full((layout.size,), value))
        self.register_buffer("low", torch.full((layout.size,), -1e6))
        self.register_buffer("high", torch.full((layout.size,), 1e6))
        self.register_buffer("reward", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
        self.register_buffer("reward_range", torch.tensor([-1e6, 1e6]))

    def prepare(self, statistics: Statistics) -> None:
        """Take over the data's scales."""
        for name in ("center", "scale", "change_scale", "low", "high"):
            getattr(self, name).copy_(self.layout.flatten(getattr(statistics, name)))
        going_on = (statistics.reward_center, statistics.reward_scale)
        terminal = (statistics.terminal_reward_center, statistics.terminal_reward_scale)
        self.reward.copy_(torch.tensor([going_on, terminal]))
        self.reward_range.copy_(torch.tensor([statistics.reward_low, statistics.reward_high]))

    def normalize(self, vector: Tensor) -> Tensor:
        """(..., D) centred and scaled; far outliers are tamed, not cut from the data."""
        return ((vector - self.center) / self.scale).clamp(-10.0, 10.0)

    def arrive(self, vector: Tensor, change: Tensor) -> Tensor:
        """The vector after a change given in `change_scale` units, kept near the data."""
        return torch.minimum(
            torch.maximum(vector + change * self.change_scale, self.low), self.high
        )

    def outside(self, vector: Tensor, change: Tensor) -> Tensor:
        """(...,) how far a change leads out of the data's range, in `change_scale` units; 0 inside.

        `low` and `high` stand a tenth of the data's width outside of it on either side.
        """
        margin = (self.high - self.low) / 12.0
        arrived = vector + change * self.change_scale
        excess = torch.maximum(self.low + margin - arrived, arrived - self.high + margin)
        return (excess / self.change_scale).clamp(min=0.0).amax(-1)

    def transition(self, vector: Tensor, action: Tensor, arrived: Tensor) -> Tensor:
        """(..., 3 D + A): the whole transition, the change at its own scale beside both ends."""
        change = ((arrived - vector) / self.change_scale).clamp(-10.0, 10.0)
        return torch.cat([self.normalize(vector), action, self.normalize(arrived), change], -1)

    def reward_units(self, normalized: Tensor, *, terminal: bool = False) -> Tensor:
        """A normalised reward in task units, within what the data showed."""
        center, scale = self.reward[int(terminal)]
        low, high = self.reward_range
        return torch.minimum(torch.maximum(normalized * scale + center, low), high)

    def normalize_reward(self, reward: Tensor, *, terminal: bool = False) -> Tensor:
        """The inverse of `reward_units`, for training targets."""
        center, scale = self.reward[int(terminal)]
        return (reward - center) / scale


class RowGroups:
    """Rows sorted by the member each follows, so that a member's rows are one slice."""

    def __init__(self, member: Tensor, members: int) -> None:
        self.order = torch.argsort(member, stable=True)
        self.inverse = torch.argsort(self.order)
        counts = torch.bincount(member, minlength=members).tolist()
        self.counts = [(index, count) for index, count in enumerate(counts) if count]

    def sort(self, rows: Tensor) -> list[tuple[int, Tensor]]:
        """(member, its rows) pairs, members without rows left out."""
        parts = rows[self.order].split([count for _, count in self.counts])
        return [(index, part) for (index, _), part in zip(self.counts, parts, strict=True)]

    def restore(self, parts: list[Tensor]) -> Tensor:
        """The inverse of `sort` on what was computed from it."""
        return torch.cat(parts)[self.inverse]


class MemberMLP(nn.Module):
    """E independent networks: hidden layers with LayerNorm and SiLU, a zero-initialised last layer.

    LayerNorm keeps long rollouts from exploding (NEUBAY); the zero last layer starts as "nothing happens".
    """

    def __init__(self, members: int, inputs: int, width: int, layers: int, outputs: int) -> None:
        super().__init__()
        sizes = [inputs] + [width] * layers + [outputs]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.gains = nn.ParameterList()
        self.shifts = nn.ParameterList()
        for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            last = index == layers
            bound = 0.0 if last else 1.0 / math.sqrt(fan_in)
            self.weights.append(
                nn.Parameter(torch.empty(members, fan_in, fan_out).uniform_(-bound, bound))
            )
            self.biases.append(nn.Parameter(torch.zeros(members, 1, fan_out)))
            if not last:
                self.gains.append(nn.Parameter(torch.ones(members, 1, fan_out)))
                self.shifts.append(nn.Parameter(torch.zeros(members, 1, fan_out)))

    def forward(self, inputs: Tensor, *, outputs: int | None = None) -> Tensor:
        """(E, N, inputs) or (1, N, inputs), seen by all members, to (E, N, outputs).

        outputs: only that many, the first ones; None: all.
        """
        hidden = inputs.expand(self.weights[0].shape[0], -1, -1)
        for weight, bias, gain, shift in zip(
            self.weights, self.biases, self.gains, self.shifts, strict=False
        ):
            hidden = torch.baddbmm(bias, hidden, weight)
            hidden = functional.layer_norm(hidden, hidden.shape[-1:])
            # Not addcmul: its backward multiplies whole layers by its constant 1.
            hidden = functional.silu((hidden * gain).add_(shift))
        weight, bias = self.weights[-1], self.biases[-1]
        return torch.baddbmm(bias[..., :outputs], hidden, weight[..., :outputs])

    def own(self, inputs: Tensor, groups: RowGroups) -> Tensor:
        """(B, inputs) to (B, outputs), each row through its own member only."""
        return groups.restore([self._member(rows, index) for index, rows in groups.sort(inputs)])

    def _member(self, hidden: Tensor, index: int) -> Tensor:
        for weight, bias, gain, shift in zip(
            self.weights, self.biases, self.gains, self.shifts, strict=False
        ):
            hidden = torch.addmm(bias[index], hidden, weight[index])
            hidden = functional.layer_norm(
                hidden, hidden.shape[-1:], gain[index, 0], shift[index, 0]
            )
            hidden = functional.silu(hidden)
        return torch.addmm(self.biases[-1][index], hidden, self.weights[-1][index])
