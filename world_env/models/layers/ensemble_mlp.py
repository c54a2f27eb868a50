"""Multilayer perceptrons of independent ensemble members."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from world_env.models.layers.fused_activation import activation


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
