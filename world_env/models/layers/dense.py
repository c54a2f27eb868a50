"""Dense layers with LayerNorm, for training and for inference."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from world_env.models.layers.fused_activation import activation


def dense(inputs: int, width: int, layers: int = 1) -> nn.Sequential:
    """Create `layers` hidden layers with LayerNorm and SiLU."""
    sizes = [inputs] + [width] * layers
    parts: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        parts += [nn.Linear(fan_in, fan_out), nn.LayerNorm(fan_out), nn.SiLU()]
    return nn.Sequential(*parts)


class PreparedDense(nn.Module):
    """Inference version of `dense` layers and an optional linear layer: fewer calls, no gradients, shared weights."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        parts: list[Any] = list(layers)
        self._activate = activation(parts[0].weight.dtype, parts[0].weight.device.type)
        self.hidden = [
            (_product(linear), norm.weight.detach(), norm.bias.detach())
            for linear, norm in zip(parts[::3], parts[1::3], strict=False)
        ]
        self.last = _product(parts[-1]) if isinstance(parts[-1], nn.Linear) else None

    def forward(self, rows: Tensor) -> Tensor:
        """Map (N, inputs) to (N, outputs)."""
        for (weight, bias), gain, shift in self.hidden:
            rows = self._activate(torch.addmm(bias, rows, weight), gain, shift)
        return rows if self.last is None else torch.addmm(self.last[1], rows, self.last[0])


def _product(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    return linear.weight.detach().T, linear.bias.detach()
