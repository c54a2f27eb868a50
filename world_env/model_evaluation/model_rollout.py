"""Rollouts of a world model along real episodes: real actions, and real observations only before the first step.

A fit evaluates its model by them, before there is a twin to step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from world_env.batch import Observation, State, select
from world_env.data.dataset import EncodedEpisodes
from world_env.device import without_gradients
from world_env.models.base import Prediction, WorldModel
from world_env.rng import CounterRNG
from world_env.types import Uncertainty


@dataclass(frozen=True)
class RolloutStep:
    """Predictions of a model after `steps` steps, for the R windows that have so many.

    rows: (R,) int64, indices of the windows. place: (R,) int64, indices of the real steps in the data.
    left: state before the step. observation: predicted observation after it.
    """

    steps: int
    rows: Tensor
    place: Tensor
    left: State
    observation: Observation
    prediction: Prediction


@without_gradients
def roll(
    model: WorldModel,
    data: EncodedEpisodes,
    first: Tensor,
    *,
    length: int | None = None,
    seed: int = 0,
    temperature: float = 0.0,
    uncertainty: Uncertainty = False,
) -> Iterator[RolloutStep]:
    """Roll a model out along the data, from the steps `first` (W,) to the ends of their episodes.

    length: largest number of steps; None: no limit. temperature: scale of the model's noise.
    """
    model, left = model.for_inference(), data.left[first]
    rows = torch.arange(len(first), device=data.device)
    rng = CounterRNG.from_seed(seed, len(first), device=data.device)
    state = state_at(model, data, first, rng)
    longest = int(left.max())
    for steps in range(1, (longest if length is None else min(length, longest)) + 1):
        lasting = left[rows] >= steps
        if not lasting.all():
            # Windows that have ended are dropped: over whole episodes they are half of the work.
            kept = lasting.nonzero().squeeze(1)
            rows, state, rng = rows[kept], select(state, kept), rng.select(kept)
        place, before = first[rows] + steps - 1, state
        action = data.actions[place]
        state, prediction = model.step(
            before, action, rng=rng, temperature=temperature, uncertainty=uncertainty
        )
        yield RolloutStep(steps, rows, place, before, model.decode(state), prediction)


def state_at(model: WorldModel, data: EncodedEpisodes, steps: Tensor, rng: CounterRNG) -> State:
    """Model states before each of the steps (B,), from the real past."""
    context = data.contexts(steps, model.context).to(data.device, torch.float32)
    return model.encode(context, rng=rng)
