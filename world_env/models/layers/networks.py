"""Layers that families share: robust normalisation of vectors, and networks of independent members."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from world_env.codec import encoded_shape, is_image, observation_spaces
from world_env.errors import UnsupportedSpaceError
from world_env.models.layers.fused_activation import activation
from world_env.spec import WorldSpec
from world_env.types import Observation, Statistics

_SHORT = 1e-6
"""Square of the length below which a vector has no direction."""


class VectorLayout:
    """How the keys of an observation lie in one flat vector of D numbers."""

    def __init__(self, spec: WorldSpec, *, family: str) -> None:
        parts = observation_spaces(spec.observation_space)
        images = [key for key, space in parts.items() if is_image(space)]
        if images:
            raise UnsupportedSpaceError(
                f"family {family!r} predicts vectors, but observation {images[0]!r} is an image {parts[images[0]]}: "
                "use a family with an image encoder, such as 'rssm'"
            )
        self.shapes = {key: encoded_shape(space) for key, space in parts.items()}
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.size = sum(self.sizes)
        # One flat key, the usual case, is the vector itself.
        flat = [key for key, shape in self.shapes.items() if len(shape) == 1]
        self._plain = flat[0] if len(flat) == len(self.shapes) == 1 else None

    def flatten(self, observation: Observation) -> Tensor:
        """Key -> (..., *O) as one (..., D)."""
        parts = [observation[key].flatten(-len(shape)) for key, shape in self.shapes.items()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def unflatten(self, vector: Tensor) -> Observation:
        """(..., D) as key -> (..., *O)."""
        if self._plain is not None:
            return {self._plain: vector}
        parts = vector.split(self.sizes, -1)
        return {
            key: part.unflatten(-1, shape)
            for part, (key, shape) in zip(parts, self.shapes.items(), strict=True)
        }


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


class RowGroups:
    """Rows sorted by the member each follows, so that a member's rows are one slice.

    parts: (member, its rows) as (index, slice of the sorted rows), members without rows left out.
    """

    def __init__(self, member: Tensor, members: int) -> None:
        self.order: Tensor | None = None
        self.inverse: Tensor | None = None
        if len(member) == 1:
            self.parts = [(int(member[0]), slice(0, 1))]
            return
        # Few members fit into 8 bits, which numpy sorts by counting.
        small = member.to(torch.int8 if members < 128 else torch.int32)
        order = small.numpy(force=True).argsort(kind="stable")
        self.order = torch.from_numpy(order).to(member.device)
        self.inverse = torch.empty_like(self.order)
        self.inverse[self.order] = torch.arange(len(order), device=member.device)
        ends = torch.bincount(member, minlength=members).cumsum(0).tolist()
        begins = [0, *ends[:-1]]
        self.parts = [
            (index, slice(begin, end))
            for index, (begin, end) in enumerate(zip(begins, ends, strict=True))
            if end > begin
        ]

    @classmethod
    def of(cls, member: Tensor, members: int) -> RowGroups:
        """The groups of a state's member tensor, found once: it stays the same tensor until a row restarts."""
        kept = member.__dict__.get("row_groups")
        if kept is None or kept[:2] != (members, member._version):
            kept = (members, member._version, cls(member, members))
            member.__dict__["row_groups"] = kept
        groups: RowGroups = kept[2]
        return groups

    def sort(self, rows: Tensor) -> Tensor:
        """(B, ...) with each member's rows side by side."""
        return rows if self.order is None else rows.index_select(0, self.order)

    def restore(self, rows: Tensor) -> Tensor:
        """The inverse of `sort` on what was computed from it."""
        return rows if self.inverse is None else rows.index_select(0, self.inverse)


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

    @torch.no_grad()
    def take_over(
        self, older: MemberMLP, inputs: tuple[Tensor, Tensor], outputs: tuple[Tensor, Tensor]
    ) -> None:
        """Become an older network of the same sizes, as the same function in other units.

        inputs: (gain, shift), (inputs,) each: what the older one saw is gain * what this one sees + shift.
        outputs: (gain, shift), (outputs,) each: what this one says is gain * what the older one said + shift.
        """
        self.load_state_dict(older.state_dict())
        first, last = self.weights[0], self.weights[-1]
        self.biases[0] += (inputs[1] @ first)[:, None]
        first *= inputs[0][:, None]
        last *= outputs[0]
        self.biases[-1].copy_(self.biases[-1] * outputs[0] + outputs[1])

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
        rows = groups.sort(inputs)
        made = [self._member(rows[part], index) for index, part in groups.parts]
        return groups.restore(torch.cat(made))

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


_CHUNK, _MANY = 512, 1 << 18
"""Rows that go through a whole network at once, on the CPU and elsewhere: what they need on the way does not grow with
all rows. A GPU is fed with as many as it holds."""


class PreparedMLP(nn.Module):
    """A `MemberMLP` as it is now, for stepping without gradients: the same numbers from fewer and larger calls.

    Weights are shared where the precision allows, so memory does not grow; it has no parameters of its own.
    dtype: of the hidden layers; inputs and outputs keep theirs.
    """

    def __init__(self, network: MemberMLP, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.outputs = network.weights[-1].shape[-1]
        place = network.weights[-1].device.type
        self.chunk = _CHUNK if place == "cpu" else _MANY
        self._activate = activation(dtype, place)
        parts = (network.weights, network.biases, network.gains, network.shifts)
        weights, biases, gains, shifts = (
            [value.detach().to(dtype).unbind(0) for value in part] for part in parts
        )
        vectors = [[[one[0] for one in layer] for layer in part] for part in (gains, shifts)]
        # One list of layers a member: looking them up costs as much as a small product.
        self.members = [
            (
                [
                    (weight[i], bias[i], gain[i], shift[i])
                    for weight, bias, gain, shift in zip(weights, biases, *vectors, strict=False)
                ],
                (weights[-1][i], biases[-1][i]),
            )
            for i in range(len(weights[0]))
        ]

    def own(self, inputs: Tensor, groups: RowGroups) -> Tensor:
        """(B, inputs) to (B, outputs), each row through its own member only."""
        rows = groups.sort(inputs).to(self.dtype)
        out = torch.empty(len(rows), self.outputs, dtype=self.dtype, device=rows.device)
        for index, part in groups.parts:
            for begin in range(part.start, part.stop, self.chunk):
                end = min(begin + self.chunk, part.stop)
                self._member(rows[begin:end], index, out[begin:end])
        return groups.restore(out).to(inputs.dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        """(1, N, inputs), seen by all members, to (E, N, outputs)."""
        rows = inputs[0].to(self.dtype)
        shape = (len(self.members), len(rows), self.outputs)
        out = torch.empty(shape, dtype=self.dtype, device=rows.device)
        for index in range(len(self.members)):
            for begin in range(0, len(rows), self.chunk):
                end = begin + self.chunk
                self._member(rows[begin:end], index, out[index, begin:end])
        return out.to(inputs.dtype)

    def _member(self, hidden: Tensor, index: int, out: Tensor) -> None:
        layers, (weight, bias) = self.members[index]
        for product, offset, gain, shift in layers:
            hidden = self._activate(torch.addmm(offset, hidden, product), gain, shift)
        torch.addmm(bias, hidden, weight, out=out)
