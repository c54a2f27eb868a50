"""Multilayer perceptrons with one set of weights per ensemble member."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from world_env.models.layers.fused_activation import activated, activation


class RowGroups:
    """Batch rows sorted by ensemble member, so that the rows of a member are one slice.

    parts: list of (member, slice of the sorted rows), without members that have no rows.
    member: (B,) int64 while torch exports a graph, where nothing may depend on values and rows are not sorted, else
        None.
    """

    def __init__(self, member: Tensor, members: int) -> None:
        self.order: Tensor | None = None
        self.inverse: Tensor | None = None
        self.member: Tensor | None = None
        self._device = member.device
        self._padded: tuple[Tensor, Tensor] | None = None
        if torch.compiler.is_exporting():
            self.member = member
            return
        if len(member) == 1:
            self.parts = [(int(member[0]), slice(0, 1))]
            return
        # numpy sorts 8-bit integers by counting, which is faster.
        small = member.to(torch.int8 if members < 128 else torch.int32)
        order = small.numpy(force=True).argsort(kind="stable")
        self.order = torch.from_numpy(order).to(member.device)
        self.inverse = torch.empty_like(self.order)
        self.inverse[self.order] = torch.arange(len(order), device=member.device)
        stops = torch.bincount(member, minlength=members).cumsum(0).tolist()
        begins = [0, *stops[:-1]]
        self.parts = [
            (index, slice(begin, stop))
            for index, (begin, stop) in enumerate(zip(begins, stops, strict=True))
            if stop > begin
        ]

    @classmethod
    def of(cls, member: Tensor, members: int) -> RowGroups:
        """Groups of a state's member tensor, cached on the tensor: it is the same object until a row is reset."""
        if torch.compiler.is_exporting():
            return cls(member, members)
        cached = member.__dict__.get("row_groups")
        if cached is None or cached[:2] != (members, member._version):
            cached = (members, member._version, cls(member, members))
            member.__dict__["row_groups"] = cached
        groups: RowGroups = cached[2]
        return groups

    def padded(self, members: int) -> tuple[Tensor, Tensor]:
        """Places of the rows where each member has as many as the one with most, N.

        Returns (row of each place, (E * N,) int64, 0 where a place is empty; place of each row, (B,) int64).
        """
        if self._padded is None:
            longest = max(part.stop - part.start for _, part in self.parts)
            order = self.order
            if order is None:  # one row
                order = torch.zeros(1, dtype=torch.int64, device=self._device)
            places = [
                torch.arange(part.stop - part.start, device=order.device) + index * longest
                for index, part in self.parts
            ]
            sorted_places = torch.cat(places)
            row = order.new_zeros(members * longest).index_copy_(0, sorted_places, order)
            place = torch.empty_like(order).index_copy_(0, order, sorted_places)
            self._padded = (row, place)
        return self._padded

    def sort(self, rows: Tensor) -> Tensor:
        """Sort rows (B, ...) by member."""
        return rows if self.order is None else rows.index_select(0, self.order)

    def restore(self, rows: Tensor) -> Tensor:
        """Inverse of `sort`."""
        return rows if self.inverse is None else rows.index_select(0, self.inverse)


class MemberMLP(nn.Module):
    """E independent networks: hidden layers with LayerNorm and SiLU, and a linear last layer initialised to zero.

    LayerNorm keeps long rollouts bounded (NEUBAY). With a zero last layer, an untrained model predicts no change.
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
        """Copy an older network of the same sizes, converted to other scales of its inputs and outputs.

        inputs: (gain, shift), each (inputs,): older input = gain * input + shift.
        outputs: (gain, shift), each (outputs,): output = gain * older output + shift.
        """
        self.load_state_dict(older.state_dict())
        first, last = self.weights[0], self.weights[-1]
        self.biases[0] += (inputs[1] @ first)[:, None]
        first *= inputs[0][:, None]
        last *= outputs[0]
        self.biases[-1].copy_(self.biases[-1] * outputs[0] + outputs[1])

    def forward(self, inputs: Tensor, *, outputs: int | None = None) -> Tensor:
        """Map (E, N, inputs), or (1, N, inputs) for all members, to (E, N, outputs).

        outputs: number of outputs to compute, from the first one; None: all.
        """
        hidden = inputs.expand(self.weights[0].shape[0], -1, -1)
        for weight, bias, gain, shift in zip(
            self.weights, self.biases, self.gains, self.shifts, strict=False
        ):
            hidden = activated(torch.bmm(hidden, weight), bias, gain, shift)
        weight, bias = self.weights[-1], self.biases[-1]
        return torch.baddbmm(bias[..., :outputs], hidden, weight[..., :outputs])

    def own(self, inputs: Tensor, groups: RowGroups) -> Tensor:
        """Map (B, inputs) to (B, outputs), each row through its own member only."""
        if groups.member is not None:
            index = groups.member[None, :, None].expand(1, -1, self.weights[-1].shape[-1])
            return self(inputs[None]).gather(0, index)[0]
        rows = groups.sort(inputs)
        outputs = [self._member(rows[part], index) for index, part in groups.parts]
        return groups.restore(torch.cat(outputs))

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


_CPU_CHUNK, _GPU_CHUNK = 512, 1 << 18
"""Rows per pass through a network: bounds the memory of the hidden layers. A GPU needs large passes to be fast."""


class PreparedMLP(nn.Module):
    """Inference version of a `MemberMLP`: the same function in fewer and larger calls, without gradients.

    It has no parameters of its own. Weights are shared with the network if the precision is the same.
    dtype: precision of the hidden layers; inputs and outputs keep their own.
    outputs: number of outputs to compute, from the first one; None: all.
    """

    def __init__(
        self, network: MemberMLP, dtype: torch.dtype, *, outputs: int | None = None
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.outputs = outputs or network.weights[-1].shape[-1]
        device = network.weights[-1].device.type
        self.chunk = _CPU_CHUNK if device == "cpu" else _GPU_CHUNK
        self._activate = activation(dtype, device)
        parts = (network.weights, network.biases, network.gains, network.shifts)
        weights, biases, gains, shifts = (
            [value.detach().to(dtype).unbind(0) for value in part] for part in parts
        )
        vectors = [[[one[0] for one in layer] for layer in part] for part in (gains, shifts)]
        # One list of layers per member: indexing the stacked weights costs as much as a small matrix product.
        self.members = [
            (
                [
                    (weight[i], bias[i], gain[i], shift[i])
                    for weight, bias, gain, shift in zip(weights, biases, *vectors, strict=False)
                ],
                (weights[-1][i][:, : self.outputs], biases[-1][i][:, : self.outputs]),
            )
            for i in range(len(weights[0]))
        ]

    def own(self, inputs: Tensor, groups: RowGroups) -> Tensor:
        """Map (B, inputs) to (B, outputs), each row through its own member only."""
        rows = groups.sort(inputs).to(self.dtype)
        out = torch.empty(len(rows), self.outputs, dtype=self.dtype, device=rows.device)
        for index, part in groups.parts:
            for begin in range(part.start, part.stop, self.chunk):
                end = min(begin + self.chunk, part.stop)
                self._member(rows[begin:end], index, out[begin:end])
        return groups.restore(out).to(inputs.dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (1, N, inputs) through all members to (E, N, outputs)."""
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
