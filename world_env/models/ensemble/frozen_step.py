"""Step of an ensemble with constant weights as one autograd node, in compiled loops and a few matrix products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from world_env.models.layers import numba_gradients as loops
from world_env.models.layers.ensemble_mlp import RowGroups
from world_env.models.layers.numba_kernels import KernelScales


def frozen_step(
    model: Any,
    scales: KernelScales,
    vector: Tensor,
    action: Tensor,
    noise: Tensor,
    groups: RowGroups,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Step without categories and unit vectors, for vectors (B, D), actions (B, A) and standard normal noise (B, D).

    model: `EnsembleWorldModel` with `FrozenMLP` networks, float32 on the CPU. scales: its constants.
    Returns (next vector (B, D), reward, reward of a terminal step, probability of termination, each (B,)).
    """
    result: tuple[Tensor, Tensor, Tensor, Tensor] = _Step.apply(
        vector, action, noise, (model.dynamics, model.heads), scales, groups
    )
    return result


class _Step(torch.autograd.Function):
    """The operations of `EnsembleWorldModel.step` on P rows that are padded by member."""

    @staticmethod
    def forward(
        ctx: Any,
        vector: Tensor,
        action: Tensor,
        noise: Tensor,
        networks: Any,
        scales: KernelScales,
        groups: RowGroups,
    ) -> tuple[Tensor, ...]:
        (dynamics, heads), size = networks, vector.shape[1]
        members = len(dynamics.weights[0])
        row, place = (each.numpy() for each in groups.padded(members))
        before, drawn = vector.numpy(), noise.numpy()
        inputs = vector.new_empty(len(row), size + action.shape[1])
        loops.network_inputs(before, action.numpy(), row, scales, inputs.numpy())
        outputs, of_dynamics = dynamics.compute(inputs.view(members, -1, inputs.shape[1]))
        transition = vector.new_empty(len(row), inputs.shape[1] + 2 * size)
        arrived = vector.new_empty(2, len(row), size)
        loops.arrive(
            before, drawn, row, inputs.numpy(), outputs.view(len(row), -1).numpy(), scales,
            arrived.numpy(), transition.numpy(),
        )  # fmt: skip
        outcome, of_heads = heads.compute(transition.view(members, -1, transition.shape[1]))
        result = vector.new_empty(3, len(place))
        loops.outcomes(outcome.view(len(row), -1).numpy(), place, scales, result.numpy())
        ctx.networks, ctx.scales, ctx.groups, ctx.parts = networks, scales, groups, len(of_dynamics)
        ctx.save_for_backward(
            noise, inputs, outputs, transition, arrived, outcome, result, *of_dynamics, *of_heads
        )
        return arrived[0].index_select(0, groups.padded(members)[1]), *result.unbind()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        noise, inputs, outputs, transition, arrived, outcome, result, *saved = ctx.saved_tensors
        (dynamics, heads), scales = ctx.networks, ctx.scales
        members, size = len(dynamics.weights[0]), noise.shape[1]
        place, rows = ctx.groups.padded(members)[1].numpy(), len(inputs)
        slope = noise.new_zeros(rows, 3)
        loops.outcomes_gradient(
            torch.stack(given[1:]).numpy(), outcome.view(rows, -1).numpy(), result.numpy(), place,
            scales, slope.numpy(),
        )  # fmt: skip
        slope = heads.input_gradient(slope.view(members, -1, 3), saved[ctx.parts :])
        of_outputs = noise.new_zeros(rows, 2 * size)
        vector = noise.new_empty(len(place), size)
        action = noise.new_empty(len(place), inputs.shape[1] - size)
        loops.arrive_gradient(
            given[0].contiguous().numpy(), noise.numpy(), place, outputs.view(rows, -1).numpy(),
            transition.numpy(), arrived[1].numpy(), scales, slope.view(rows, -1).numpy(),
            of_outputs.numpy(), vector.numpy(), action.numpy(),
        )  # fmt: skip
        slope = dynamics.input_gradient(of_outputs.view(members, -1, 2 * size), saved[: ctx.parts])
        loops.network_inputs_gradient(
            slope.view(rows, -1).numpy(), inputs.numpy(), place, scales, vector.numpy(), action.numpy()
        )  # fmt: skip
        return vector, action, None, None, None, None
