"""How close a world model stays to real episodes that it never learned from.

The same `encode`, `step` and `decode` as the simulator's, on the same encoded tensors: what is measured here is
what an agent lives in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from world_env.batch import Batch, Observation, State, select
from world_env.data.dataset import EncodedEpisodes
from world_env.data_range import DataRange
from world_env.model_evaluation.errors import energy_score, row_errors, scales_of
from world_env.models.base import Prediction, WorldModel
from world_env.rng import CounterRNG
from world_env.simulation.termination import TerminalBounds
from world_env.types import JSON, OBSERVATION

_MAX_WINDOWS = 256
_ENERGY_WINDOWS = 64
"""Whose energy scores are taken: two rollouts each, beside the one of all windows."""


_CHUNK = 2048
"""Transitions judged at once: what the model needs for them, and with it the memory, stays small."""


@dataclass(frozen=True)
class OpenLoop:
    """Errors of rollouts that see the real actions, and reality only as far as a state is inferred from.

    A model with a memory is shown what came before, where something did (`WorldModel.context`).

    error: (T,) root mean square error after 1..T steps, in the units of `scales_of`.
    hold_last: (T,) the same for "nothing moves".
    energy, hold_energy: (T,) mean energy scores of either, on some of the windows; None for a model whose one rollout
        stands for all (`WorldModel.scored_by_draws`), unless they were asked for.
    score: one number to select models by: e / (1 + e) averaged over windows and steps, e the error of one window
        after one step count; saturating, so that windows lost to chaos do not drown the rest. Of draws, the same of the
        energy score's distances. inf if any rollout left the numbers.
    reward_error: mean absolute error of one step's reward over the rollout, task units.
    rows: how many windows were rolled out.
    """

    error: np.ndarray
    hold_last: np.ndarray
    score: float
    reward_error: float
    rows: int
    energy: np.ndarray | None = None
    hold_energy: np.ndarray | None = None

    def to_json(self) -> JSON:
        """The curves as a twin stores them, rounded; None where a rollout left the numbers."""
        names = ("error", "hold_last", "energy", "hold_energy")
        curves = {
            name: [round(float(value), 5) if math.isfinite(value) else None for value in values]
            for name in names
            if (values := getattr(self, name)) is not None
        }
        unit = "standard deviations of the data"
        return {"horizon": len(self.error), "unit": unit, **curves, "rows": self.rows}


@torch.no_grad()
def evaluate_open_loop(
    model: WorldModel,
    data: EncodedEpisodes,
    *,
    horizon: int,
    scale: Observation | None = None,
    seed: int = 0,
    temperature: float = 0.0,
    energies: bool = False,
) -> OpenLoop:
    """Roll the model out along real episodes, from windows spread evenly over the data.

    horizon: steps T; windows that end earlier count as far as they go.
    scale: the unit of errors; None for that of `data`. Few held-out episodes may show less than the model knows of: a
        fit gives the one of all its episodes.
    temperature: of `error`; energy scores are of what a simulator would draw, at 1.
    energies: of a model whose one rollout stands for all too; its score stays that of the errors.
    """
    by_draws, model = model.scored_by_draws, model.for_inference()
    begins, length = evaluation_steps(data, horizon)
    scale = scales_of(data) if scale is None else scale
    first = _seen_from(data, begins, 0)
    error, still, reward_error, saturated = [], [], [], []
    for step, rows, state, prediction in _imagined(model, data, begins, length, seed, temperature):
        real, place = _seen_from(data, begins[rows], step + 1), begins[rows] + step
        errors = row_errors(model.decode(state), real, scale)
        error.append(_root_mean_square(errors))
        still.append(_root_mean_square(row_errors(select(first, rows), real, scale)))
        saturated.append(float(_saturating(errors).mean()))
        going_on = data.terminated[place] == 0
        difference = (prediction.reward - data.rewards[place]).abs()[going_on]
        reward_error.append(float(difference.mean()) if len(difference) else 0.0)
    energy = hold_energy = None
    if by_draws or energies:
        energy, hold_energy, drawn = _energies(model, data, begins, length, scale, seed)
        saturated = drawn if by_draws else saturated
    score = float(np.mean(saturated)) if np.isfinite(error).all() else math.nan
    return OpenLoop(
        np.array(error),
        np.array(still),
        score if math.isfinite(score) else math.inf,
        float(np.mean(reward_error)),
        len(begins),
        energy,
        hold_energy,
    )


def _energies(
    model: WorldModel,
    data: EncodedEpisodes,
    begins: Tensor,
    length: int,
    scale: Observation,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """(T,) each, means over some windows: energy scores, those of "nothing moves", and those of saturated distances."""
    # The longest windows first, so that some of those that are kept reach the end.
    ordered = begins[data.left[begins].argsort(descending=True, stable=True)]
    chosen = ordered[:: -(-len(begins) // _ENERGY_WINDOWS)].repeat(2)
    first, energy, held, saturated = _seen_from(data, chosen, 0), [], [], []
    for step, rows, state, _ in _imagined(model, data, chosen, length, seed, 1.0):
        shown, real = model.decode(state), _seen_from(data, chosen[rows], step + 1)
        one, other = row_errors(shown, real, scale).chunk(2)
        left, right = ({key: value.chunk(2)[i] for key, value in shown.items()} for i in (0, 1))
        apart = (one, other, row_errors(left, right, scale))
        energy.append(float(energy_score(*apart).mean()))
        saturated.append(float(energy_score(*map(_saturating, apart)).mean()))
        held.append(float(row_errors(select(first, rows), real, scale).mean()))
    return np.array(energy), np.array(held), saturated


def _saturating(distance: Tensor) -> Tensor:
    return distance / (1.0 + distance)


def _imagined(
    model: WorldModel,
    data: EncodedEpisodes,
    begins: Tensor,
    length: int,
    seed: int,
    temperature: float,
) -> Iterator[tuple[int, Tensor, State, Prediction]]:
    """(step, rows of the windows that last so long, their states, what was predicted of the step), step by step."""
    rows, left = torch.arange(len(begins), device=data.device), data.left[begins]
    rng = CounterRNG.from_seed(seed, len(begins), device=data.device)
    state = state_at(model, data, begins, rng)
    for step in range(min(length, int(left.max()))):
        lasting = left[rows] > step
        if not lasting.all():
            # Windows that ended are not rolled on: over a whole episode they are half of the work.
            kept = lasting.nonzero().squeeze(1)
            rows, state, rng = rows[kept], select(state, kept), rng.select(kept)
        action = data.actions[begins[rows] + step]
        state, prediction = model.step(state, action, rng=rng, temperature=temperature)
        yield step, rows, state, prediction


def _seen_from(data: EncodedEpisodes, begins: Tensor, steps: int) -> Observation:
    """What was seen so many steps after each of these (B,): pixels of whole windows, as numbers, would fill memory."""
    return data.seen(begins + data.episode[begins] + steps)


@torch.no_grad()
def one_step(
    model: WorldModel, data: EncodedEpisodes, *, seed: int = 0, ranges: DataRange | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(probability, label, uncertainty) of every real transition, (N,) each, on the CPU; uncertainty NaN where unknown.

    Of a model that is scored by its draws, those of one draw each, as a simulator would have them.
    ranges: what arrives beyond their `ends` has surely ended, as in a simulator.
    """
    temperature = 1.0 if model.scored_by_draws else 0.0
    model, bounds = model.for_inference(), TerminalBounds(ranges)
    probability, uncertainty = [], []
    for steps in torch.arange(len(data), device=data.device).split(_CHUNK):
        batch = data.gather(steps, 1)
        rng = CounterRNG.from_seed(seed + int(steps[0]), len(batch), device=data.device)
        state, prediction = model.step(
            state_at(model, data, steps, rng),
            batch.actions[:, 0],
            rng=rng,
            temperature=temperature,
            uncertainty="full",
        )
        terminated = prediction.terminated.cpu()
        if bounds:
            arrived = model.decode(state)[OBSERVATION].numpy(force=True)
            beyond = torch.from_numpy(bounds.beyond(arrived))
            terminated = terminated.masked_fill(beyond, 1.0)
        probability.append(terminated)
        known = prediction.uncertainty
        uncertainty.append(
            torch.full_like(terminated, float("nan")) if known is None else known.cpu()
        )
    return torch.cat(probability), data.terminated.cpu(), torch.cat(uncertainty)


def state_at(model: WorldModel, data: EncodedEpisodes, steps: Tensor, rng: CounterRNG) -> State:
    """What a model makes of the real past of each of these steps (B,)."""
    context = data.contexts(steps, model.context).to(data.device, torch.float32)
    return model.encode(context, rng=rng)


def evaluation_windows(data: EncodedEpisodes, horizon: int) -> Batch:
    """At most 256 windows of `horizon` steps, spread evenly over all steps of the data."""
    return data.gather(*evaluation_steps(data, horizon))


def evaluation_steps(data: EncodedEpisodes, horizon: int) -> tuple[Tensor, int]:
    """(first steps, length) of `evaluation_windows`."""
    stride = max(1, -(-len(data) // _MAX_WINDOWS))
    steps = torch.arange(0, len(data), stride, device=data.device)
    # Of the chosen steps, not of all: else no window might reach the last step.
    length = min(horizon, int(data.left[steps].max()))
    whole = steps[data.left[steps] >= length]
    # Whole windows first: the far end of the curve should rest on many rows.
    chosen = whole if len(whole) >= 32 else steps
    return chosen, length


def measured_steps(last: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... below `last` >= 1, and `last`: where curves over the steps are told."""
    grid = [m * 10**power for power in range(len(str(last))) for m in (1, 2, 5)]
    return [steps for steps in grid if steps < last] + [last]


def _root_mean_square(errors: Tensor) -> float:
    """Over the rows; NaN if there is none."""
    return float(errors.square().mean().sqrt())
