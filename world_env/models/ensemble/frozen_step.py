"""Step of an ensemble with constant weights as one autograd node: a tenth of the operations of `step`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from world_env.models.layers.ensemble_mlp import RowGroups

if TYPE_CHECKING:
    from world_env.models.ensemble.model import EnsembleWorldModel


def frozen_step(
    model: EnsembleWorldModel, vector: Tensor, action: Tensor, noise: Tensor, groups: RowGroups
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Step without categories and unit vectors, for vectors (B, D), actions (B, A) and standard normal noise (B, D).

    model: with `FrozenMLP` networks.
    Returns (next vector (B, D), reward, reward of a terminal step, probability of termination, each (B,)).
    """
    result: tuple[Tensor, Tensor, Tensor, Tensor] = _Step.apply(
        vector, action, noise, model, groups.padded(model.config.members)
    )
    return result


class _Step(torch.autograd.Function):
    """The operations of `EnsembleWorldModel.step` on rows that are padded by member, (E, N, ...)."""

    @staticmethod
    def forward(
        ctx: Any,
        vector: Tensor,
        action: Tensor,
        noise: Tensor,
        model: Any,
        places: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, ...]:
        row, place = places
        scales, size, members = model.normalizer, vector.shape[1], model.config.members
        rows = torch.cat([vector, action, noise], 1).index_select(0, row)
        rows = rows.view(members, len(row) // members, -1)
        before, taken, drawn = rows.split([size, action.shape[1], size], -1)
        normalized = scales.normalize(before)
        outputs, dynamics = model.dynamics.compute(torch.cat([normalized, taken], -1))
        mean, raw = outputs.chunk(2, -1)
        deviation = model.deviation(raw)
        moved = scales.add(before, torch.addcmul(mean, deviation, drawn))
        arrived = moved.clamp(scales.low, scales.high)
        after, change = scales.arrival(before, arrived)
        outcome, heads = model.heads.compute(torch.cat([normalized, taken, after, change], -1))
        reward, terminal, logit = outcome.unbind(-1)
        rewards = scales.reward_units(reward), scales.reward_units(terminal, terminal=True)
        ends = (logit - model.log_terminal_weight).sigmoid()
        ctx.model, ctx.size, ctx.dynamics = model, size, len(dynamics)
        kept = (arrived == moved, normalized, after, change, raw, drawn, ends, reward, terminal)
        ctx.save_for_backward(row, place, *kept, *dynamics, *heads)
        made = torch.cat([arrived, *(each[..., None] for each in (*rewards, ends))], -1)
        made = made.flatten(0, 1).index_select(0, place)
        return made[:, :size].contiguous(), *made[:, size:].t().contiguous()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        model, size, scales = ctx.model, ctx.size, ctx.model.normalizer
        row, place, free, normalized, after, change, raw, drawn, ends, reward, terminal = (
            ctx.saved_tensors[:11]
        )
        networks = [*ctx.saved_tensors[11:]]
        given = torch.cat([gradients[0], *(each[:, None] for each in gradients[1:])], 1)
        padded = given.new_zeros(len(row), given.shape[1]).index_copy_(0, place, given)
        padded = padded.view(*ends.shape, -1)
        of_arrived, of_reward, of_terminal, of_ends = padded.split([size, 1, 1, 1], -1)
        outcome = torch.cat(
            [
                of_reward * scales.reward_slope(reward)[..., None],
                of_terminal * scales.reward_slope(terminal, terminal=True)[..., None],
                of_ends * (ends * (1.0 - ends))[..., None],
            ],
            -1,
        )
        slope = model.heads.input_gradient(outcome, networks[ctx.dynamics :])
        actions = slope.shape[-1] - 3 * size
        of_normal, of_action, of_after, of_change = slope.split([size, actions, size, size], -1)
        of_change = _inside(of_change, change).div_(scales.change_scale)
        of_arrived = of_arrived + _inside(of_after, after).div_(scales.scale).add_(of_change)
        # Of `moved`, which is the vector plus the change in units of `change_scale`.
        of_moved = of_arrived.mul_(free)
        of_mean = of_moved * scales.change_scale
        outputs = torch.cat([of_mean, of_mean * drawn * model.deviation_slope(raw)], -1)
        slope = model.dynamics.input_gradient(outputs, networks[: ctx.dynamics])
        of_normal = _inside(of_normal + slope[..., :size], normalized).div_(scales.scale)
        of_vector = of_normal.add_(of_moved).sub_(of_change)
        inputs = torch.cat([of_vector, of_action + slope[..., size:]], -1).flatten(0, 1)
        of_vector, of_action = inputs.index_select(0, place).split([size, actions], 1)
        return of_vector, of_action, None, None, None


def _inside(gradient: Tensor, clipped: Tensor) -> Tensor:
    """Gradient of a normalised value before its clipping."""
    return gradient * (clipped.abs() < 10.0)
