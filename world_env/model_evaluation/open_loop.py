"""Open-loop errors of a world model on real episodes, and its errors of single steps.

Rollouts use the same `encode`, `step` and `decode` on the same encoded tensors as the simulator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from world_env.batch import Batch, Observation, select
from world_env.data.dataset import EncodedEpisodes
from world_env.data_range import DataRange
from world_env.device import without_gradients
from world_env.model_evaluation.errors import energy_score, errors_per_row, scales_of
from world_env.model_evaluation.model_rollout import roll, state_at
from world_env.models.base import WorldModel
from world_env.results.fidelity import OpenLoopErrors
from world_env.rng import CounterRNG
from world_env.simulation.termination import TerminalBounds

_MAX_WINDOWS = 256
_ENERGY_WINDOWS = 64
"""Windows with energy scores, of two more rollouts each."""
_CHUNK = 2048
"""Transitions per batch, which bounds the memory."""


@dataclass(frozen=True)
class OpenLoop:
    """Errors of open-loop rollouts: real actions, and real observations only before the first step.

    A model with memory gets earlier observations as context, where there are any (`WorldModel.context`).

    error: (T,) root mean square error after 1..T steps, in the units of `scales_of`.
    hold_last: (T,) the same for the last observation held.
    energy, hold_energy: (T,) mean energy scores of the rollouts and of the last observation held, on some of the
        windows; None unless the model is scored by draws (`WorldModel.scored_by_draws`) or they were asked for.
    score: selection criterion of models: mean of e / (1 + e) over windows and steps, where e is the error of a window.
        It saturates, so windows with diverged rollouts do not dominate. For a model scored by draws, the energy score
        of the saturated distances. inf if any rollout has NaN or infinite values.
    reward_error: mean absolute error of the reward of a step, task units.
    rows: number of windows.
    """

    error: np.ndarray
    hold_last: np.ndarray
    score: float
    reward_error: float
    rows: int
    energy: np.ndarray | None = None
    hold_energy: np.ndarray | None = None

    def rounded(self) -> OpenLoopErrors:
        """Return the curves as stored in a twin; None for NaN and infinite values."""
        names = ("error", "hold_last", "energy", "hold_energy")
        curves = {
            name: [round(float(value), 5) if math.isfinite(value) else None for value in values]
            for name in names
            if (values := getattr(self, name)) is not None
        }
        return OpenLoopErrors(unit="standard deviations of the data", windows=self.rows, **curves)


@without_gradients
def evaluate_open_loop(
    model: WorldModel,
    data: EncodedEpisodes,
    *,
    horizon: int,
    scale: Observation | None = None,
    seed: int = 0,
    temperature: float = 0.0,
    energies: bool = False,
    windows: int = _MAX_WINDOWS,
) -> OpenLoop:
    """Measure open-loop errors along real episodes, from windows spread evenly over the data.

    horizon: number of steps T. Shorter windows count until they end.
    scale: unit of the errors; None: from `data`. A fit passes that of all its episodes, because a small
        validation split may cover less.
    temperature: scale of the model's noise for `error`. Energy scores have temperature 1, as the simulator by default.
    energies: compute energy scores also for a model that is not scored by draws.
    windows: maximum number of windows.
    """
    by_draws = model.scored_by_draws
    begins, length = evaluation_steps(data, horizon, windows)
    scale = scales_of(data) if scale is None else scale
    first = _observations_after(data, begins, 0)
    error, hold_last, reward_error, saturated = [], [], [], []
    for step in roll(model, data, begins, length=length, seed=seed, temperature=temperature):
        real = _observations_after(data, begins[step.rows], step.steps)
        errors = errors_per_row(step.observation, real, scale)
        error.append(_root_mean_square(errors))
        hold_last.append(_root_mean_square(errors_per_row(select(first, step.rows), real, scale)))
        saturated.append(float(_saturating(errors).mean()))
        continues = data.terminated[step.place] == 0
        difference = (step.prediction.reward - data.rewards[step.place]).abs()[continues]
        reward_error.append(float(difference.mean()) if len(difference) else 0.0)
    energy = hold_energy = None
    if by_draws or energies:
        energy, hold_energy, drawn = _energies(model, data, begins, length, scale, seed)
        saturated = drawn if by_draws else saturated
    score = float(np.mean(saturated)) if np.isfinite(error).all() else math.nan
    return OpenLoop(
        np.array(error),
        np.array(hold_last),
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
    """(T,) means over some windows: energy scores, those of the last observation held, those of saturated distances."""
    # The longest windows first, so that some of the chosen ones reach the last step.
    ordered = begins[data.left[begins].argsort(descending=True, stable=True)]
    chosen = ordered[:: -(-len(begins) // _ENERGY_WINDOWS)].repeat(2)
    first, energy, held, saturated = _observations_after(data, chosen, 0), [], [], []
    for step in roll(model, data, chosen, length=length, seed=seed, temperature=1.0):
        rows, predicted = step.rows, step.observation
        real = _observations_after(data, chosen[rows], step.steps)
        one, other = errors_per_row(predicted, real, scale).chunk(2)
        left, right = ({key: value.chunk(2)[i] for key, value in predicted.items()} for i in (0, 1))
        apart = (one, other, errors_per_row(left, right, scale))
        energy.append(float(energy_score(*apart).mean()))
        saturated.append(float(energy_score(*map(_saturating, apart)).mean()))
        held.append(float(errors_per_row(select(first, rows), real, scale).mean()))
    return np.array(energy), np.array(held), saturated


def _saturating(distance: Tensor) -> Tensor:
    return distance / (1.0 + distance)


def _observations_after(data: EncodedEpisodes, begins: Tensor, steps: int) -> Observation:
    """Observations `steps` steps after each of the steps (B,). One step at a time, because of the memory of images."""
    return data.seen(begins + data.episode[begins] + steps)


@without_gradients
def one_step(
    model: WorldModel, data: EncodedEpisodes, *, seed: int = 0, ranges: DataRange | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(termination probability, label, uncertainty) of every real transition, (N,) each, on the CPU.

    uncertainty: NaN for a model without one. A model scored by draws is stepped once at temperature 1, as in a
    simulator.
    ranges: observations beyond their hard termination bounds have probability 1, as in a simulator.
    """
    temperature = 1.0 if model.scored_by_draws else 0.0
    model, bounds = model.for_inference(), TerminalBounds(ranges)
    probability, uncertainty = [], []
    for steps in torch.arange(len(data), device=data.device).split(_CHUNK):
        batch = data.gather(steps, 1)
        rng = CounterRNG.from_seed(seed + int(steps[0]), len(batch), device=data.device)
        before = state_at(model, data, steps, rng)
        arrived = data.seen(steps + data.episode[steps] + 1)
        observed = model.observed_termination(before, batch.actions[:, 0], arrived)
        state, prediction = model.step(
            before,
            batch.actions[:, 0],
            rng=rng,
            temperature=temperature,
            uncertainty="full",
        )
        terminated = (prediction.terminated if observed is None else observed).cpu()
        if bounds:
            shown = data.codec.decode_observation(
                model.decode(state) if observed is None else arrived
            )
            beyond = torch.from_numpy(bounds.beyond(shown))
            terminated = terminated.masked_fill(beyond, 1.0)
        probability.append(terminated)
        known = prediction.uncertainty
        uncertainty.append(
            torch.full_like(terminated, float("nan")) if known is None else known.cpu()
        )
    return torch.cat(probability), data.terminated.cpu(), torch.cat(uncertainty)


def evaluation_windows(data: EncodedEpisodes, horizon: int) -> Batch:
    """Windows of `horizon` steps, spread evenly over the data, at most `_MAX_WINDOWS`."""
    return data.gather(*evaluation_steps(data, horizon))


def evaluation_steps(
    data: EncodedEpisodes, horizon: int, windows: int = _MAX_WINDOWS
) -> tuple[Tensor, int]:
    """(first steps, length) of `evaluation_windows`."""
    stride = max(1, -(-len(data) // windows))
    steps = torch.arange(0, len(data), stride, device=data.device)
    # Over the chosen steps, so that some window reaches the last step.
    length = min(horizon, int(data.left[steps].max()))
    whole = steps[data.left[steps] >= length]
    # Whole windows where there are enough, so that all steps have the same number of windows.
    chosen = whole if len(whole) >= 32 else steps
    return chosen, length


def measured_steps(last: int) -> list[int]:
    """Steps at which curves are measured: 1, 2, 5, 10, 20, 50, ... below `last` >= 1, and `last`."""
    grid = [m * 10**power for power in range(len(str(last))) for m in (1, 2, 5)]
    return [steps for steps in grid if steps < last] + [last]


def _root_mean_square(errors: Tensor) -> float:
    """Root mean square over the rows; NaN without rows."""
    return float(errors.square().mean().sqrt())
