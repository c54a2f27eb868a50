"""Ensemble networks whose weights are constants: gradients with respect to the inputs only, in few operations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from world_env.models.layers.ensemble_mlp import MemberMLP, RowGroups
from world_env.models.layers.fused_activation import compiled_gradients

_LAYER_NORM = torch.ops.aten.native_layer_norm
_LAYER_NORM_BACKWARD = torch.ops.aten.native_layer_norm_backward
_SILU_BACKWARD = torch.ops.aten.silu_backward
_EPSILON = 1e-5
"""Of LayerNorm, as in `torch.nn.functional.layer_norm`."""


class FrozenMLP(nn.Module):
    """Copy of a `MemberMLP` with constant weights: the same function, with gradients of its inputs only.

    All members are computed together, with their rows padded to one number. One autograd node takes the place of one
    for each operation and member, and no gradient of a weight is computed. With numba, LayerNorm and SiLU are one loop.

    outputs: number of outputs to compute, from the first one; None: all.
    """

    def __init__(self, network: MemberMLP, *, outputs: int | None = None) -> None:
        super().__init__()
        self.outputs = outputs or network.weights[-1].shape[-1]
        parts = (network.weights, network.biases, network.gains, network.shifts)
        weights, biases, self.gains, self.shifts = (
            [each.detach().clone() for each in part] for part in parts
        )
        self.weights = [*weights[:-1], weights[-1][..., : self.outputs].contiguous()]
        self.biases = [*biases[:-1], biases[-1][..., : self.outputs].contiguous()]
        self._loops = compiled_gradients() if _is_plain(weights[0]) else None
        self.transposed = [each.transpose(1, 2).contiguous() for each in self.weights]

    def own(self, inputs: Tensor, groups: RowGroups) -> Tensor:
        """Map (B, inputs) to (B, outputs), each row through its own member only."""
        row, place = groups.padded(len(self.weights[0]))
        members = inputs.index_select(0, row).view(len(self.weights[0]), -1, inputs.shape[-1])
        return self.of_members(members).flatten(0, 1).index_select(0, place)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (1, N, inputs) through all members to (E, N, outputs)."""
        return self.of_members(inputs.expand(len(self.weights[0]), -1, -1))

    def of_members(self, inputs: Tensor) -> Tensor:
        """Map (E, N, inputs) to (E, N, outputs)."""
        outputs: Tensor = _Pass.apply(inputs, self)
        return outputs

    def compute(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`of_members` without autograd, and the tensors that `input_gradient` needs."""
        hidden, saved = inputs, list[Tensor]()
        layers = zip(self.weights, self.biases, self.gains, self.shifts, strict=False)
        for weight, bias, gain, shift in layers:
            product = torch.bmm(hidden, weight)
            if self._loops is not None:
                hidden, factor = torch.empty_like(product), product.new_empty(product.shape[:2])
                self._loops.activate(
                    *(each.numpy() for each in (product, bias, gain, shift, factor, hidden))
                )
                saved += [product, factor]
                continue
            product += bias
            normed, mean, rstd = _LAYER_NORM(product, product.shape[-1:], None, None, _EPSILON)
            scaled = torch.addcmul(shift, normed, gain)
            saved += [product, mean, rstd, scaled]
            hidden = torch.nn.functional.silu(scaled)
        return torch.baddbmm(self.biases[-1], hidden, self.weights[-1]), saved

    def input_gradient(self, gradient: Tensor, saved: list[Tensor]) -> Tensor:
        """Gradient of the inputs (E, N, inputs), given that of the outputs (E, N, outputs)."""
        slope, count = torch.bmm(gradient, self.transposed[-1]), len(saved) // len(self.gains)
        for layer in reversed(range(len(self.gains))):
            kept, gain = saved[count * layer : count * (layer + 1)], self.gains[layer]
            if self._loops is not None:
                parts = (slope, *kept, gain, self.shifts[layer])
                self._loops.activate_gradient(*(each.numpy() for each in parts))
            else:
                product, mean, rstd, scaled = kept
                slope = _SILU_BACKWARD(slope, scaled).mul_(gain)
                slope, _, _ = _LAYER_NORM_BACKWARD(
                    slope, product, gain.shape[-1:], mean, rstd, None, None, [True, False, False]
                )
            slope = torch.bmm(slope, self.transposed[layer])
        return slope


def _is_plain(weight: Tensor) -> bool:
    return weight.dtype == torch.float32 and weight.device.type == "cpu"


class _Pass(torch.autograd.Function):
    """`FrozenMLP.of_members` as one node."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, network: FrozenMLP) -> Tensor:
        outputs, saved = network.compute(inputs)
        ctx.network = network
        ctx.save_for_backward(*saved)
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return ctx.network.input_gradient(gradient, [*ctx.saved_tensors]), None
