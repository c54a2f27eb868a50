"""Errors of a twin by number of steps and by dimension, and its trusted horizon.

Open-loop rollouts get the context of a model state and then only real actions. They start from steps spread over the
data, and from the first steps of the longest episodes, so that large numbers of steps have many rollouts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from world_env.batch import Observation
from world_env.data.dataset import EncodedEpisodes, encode_episodes
from world_env.data.episode import Episode
from world_env.model_evaluation.errors import deviations, over_keys, scales_of, significant
from world_env.model_evaluation.model_rollout import RolloutStep, roll
from world_env.model_evaluation.open_loop import measured_steps, one_step
from world_env.model_evaluation.survival import survival
from world_env.model_evaluation.termination import auroc, termination_scores
from world_env.models.base import WorldModel
from world_env.results.fidelity import (
    HorizonErrors,
    ObservationErrors,
    RewardErrors,
    TerminationScores,
    UncertaintyRanking,
)
from world_env.spaces import is_image
from world_env.twin.twin import Twin

TRUSTED = 0.5
"""Largest error of a trusted step: as a share of the error of the last observation held, and in standard deviations.

At 0.5, three quarters of the variance since the first step, and of the variance of the data, are predicted. The first
bound alone is weak where observations no longer depend on the first step, the second where they hardly change.
"""
_SPREAD, _BEGINNINGS = 256, 64
"""Largest numbers of windows spread over the data, and of windows at the start of an episode."""
_FEWEST_RANKED = 20
"""Fewest windows of a rank correlation: the worst tenth should have more than one of them."""


def measure_horizons(
    twin: Twin,
    episodes: Sequence[Episode],
    *,
    data: EncodedEpisodes | None = None,
    linear: WorldModel | None = None,
    seed: int = 0,
) -> HorizonErrors:
    """Measure the errors of a twin by number of steps on episodes of the validation split.

    linear: model to compare with; None: no linear model. A step is trusted as `TRUSTED` says.
    data: the same episodes, encoded by the codec of the twin (None: they are encoded here).
    """
    windows = _Windows.of(encode_episodes(episodes, twin.codec) if data is None else data)
    actions = np.concatenate([episode.actions for episode in episodes])
    learned = _rollout_errors(twin, windows, actions, seed)
    squared = torch.stack(learned.squared)
    held = torch.stack(
        [windows.squared(windows.start(rows), rows, steps).mean(0) for steps, rows in windows.left]
    )
    return HorizonErrors(
        observation=ObservationErrors(
            steps=windows.steps,
            unit="standard deviations of the data",
            names=windows.names,
            windows=[len(rows) for _, rows in windows.left],
            error=windows.by_dimension(squared),
            hold_last=windows.by_dimension(held),
            linear=None if linear is None else _baseline(linear, windows, seed),
        ),
        reward=_reward_errors(windows, learned),
        termination=_termination(twin, windows.data, seed),
        survival=survival(twin, episodes, seed=seed),
        uncertainty=_ranking(windows, learned),
        trusted_horizon=_trusted(
            windows.steps, *(over_keys(each, windows.scale).sqrt() for each in (squared, held))
        ),
    )


@dataclass(frozen=True)
class _Windows:
    """Windows of rollouts, with the real observations to compare with.

    first: (W,) int64, first steps in the data. steps: measured numbers of steps. left: for each of them, (the number,
    (R,) indices of the windows that have so many steps).
    """

    data: EncodedEpisodes
    first: Tensor
    scale: Observation
    steps: list[int]
    left: list[tuple[int, Tensor]]

    @classmethod
    def of(cls, data: EncodedEpisodes) -> _Windows:
        spread = torch.arange(0, len(data), max(1, -(-len(data) // _SPREAD)))
        change = torch.diff(data.episode, prepend=data.episode.new_tensor([-1]))
        beginnings = change.nonzero().squeeze(1)
        longest = data.left[beginnings].argsort(descending=True, stable=True)[:_BEGINNINGS]
        first = torch.cat([spread, beginnings[longest]]).unique()
        steps = measured_steps(int(data.left[first].max()))
        left = [(each, (data.left[first] >= each).nonzero().squeeze(1)) for each in steps]
        return cls(data, first, scales_of(data), steps, left)

    @property
    def names(self) -> list[str]:
        """One name for each dimension, and one for each image."""
        codec = self.data.codec
        return [
            name
            for key, space in codec.keys.items()
            for name in ([key] if is_image(space) else codec.column_names(key))
        ]

    def start(self, rows: Tensor) -> Observation:
        first = self.first[rows]
        return self.data.seen(first + self.data.episode[first])

    def squared(self, predicted: Observation, rows: Tensor, steps: int) -> Tensor:
        """(R, D) squared deviations from the real observations, `steps` steps after the first step of the windows."""
        first = self.first[rows]
        real = self.data.seen(first + self.data.episode[first] + steps)
        return deviations(predicted, real, self.scale).square()

    def by_dimension(self, squared: Tensor) -> list[list[float | None]]:
        """(G, D) mean squares to root mean squares: for each name, a list over the G steps."""
        keys = self.data.codec.keys
        parts = squared.split([self.scale[key].numel() for key in keys], dim=-1)
        named = [
            part.mean(-1, keepdim=True) if is_image(space) else part
            for part, space in zip(parts, keys.values(), strict=True)
        ]
        return [significant(column) for column in torch.cat(named, -1).sqrt().T.tolist()]


@dataclass(frozen=True)
class _RolloutErrors:
    """Errors of a twin's rollouts, one entry for each measured step, which R windows have.

    squared: (D,) mean over the windows. error: (R,) over all dimensions. reward, returns: (R,) signed errors of the
    reward of the step and of the return so far. uncertainty: (R,) sum so far; NaN for a model without uncertainty.
    """

    squared: list[Tensor] = field(default_factory=list)
    error: list[np.ndarray] = field(default_factory=list)
    reward: list[Tensor] = field(default_factory=list)
    returns: list[Tensor] = field(default_factory=list)
    uncertainty: list[np.ndarray] = field(default_factory=list)


def _rollout_errors(
    twin: Twin, windows: _Windows, actions: np.ndarray, seed: int
) -> _RolloutErrors:
    """Errors of the twin. actions: (N, ...) of the data, as in the environment."""
    data, first = windows.data, windows.first
    total, uncertainty = torch.zeros(2, len(first), dtype=torch.float64)
    errors = _RolloutErrors()
    for step in roll(twin.model, data, first, seed=seed, uncertainty="full"):
        rows, known = step.rows, step.prediction.uncertainty
        off = _reward(twin, data, actions, step) - data.rewards[step.place]
        total[rows] += off
        uncertainty[rows] += math.nan if known is None else known
        if step.steps not in windows.steps:
            continue
        squared = windows.squared(step.observation, rows, step.steps)
        errors.squared.append(squared.mean(0))
        errors.error.append(over_keys(squared, windows.scale).sqrt().numpy())
        errors.reward.append(off)
        errors.returns.append(total[rows])
        errors.uncertainty.append(uncertainty[rows].numpy())
    return errors


def _reward(twin: Twin, data: EncodedEpisodes, actions: np.ndarray, step: RolloutStep) -> Tensor:
    """(R,) learned reward as in a simulator, where the episode continues or ends as the real one."""
    codec, prediction = twin.codec, step.prediction
    if twin.reward_fn is not None:
        before = codec.decode_observation(twin.model.decode(step.left))
        after = codec.decode_observation(step.observation)
        return torch.as_tensor(twin.reward_fn(before, actions[step.place.numpy()], after))
    reward = prediction.reward
    if prediction.terminal_reward is not None:
        reward = torch.where(data.terminated[step.place] > 0, prediction.terminal_reward, reward)
    return torch.from_numpy(codec.clip_reward(reward.numpy()))


def _baseline(model: WorldModel, windows: _Windows, seed: int) -> list[list[float | None]]:
    rollout = roll(model, windows.data, windows.first, seed=seed)
    squared = [
        windows.squared(step.observation, step.rows, step.steps).mean(0)
        for step in rollout
        if step.steps in windows.steps
    ]
    return windows.by_dimension(torch.stack(squared))


def _termination(twin: Twin, data: EncodedEpisodes, seed: int) -> TerminationScores | None:
    if twin.termination_fn is not None:
        return None
    probability, label, _ = one_step(twin.model, data, seed=seed, ranges=twin.ranges)
    return termination_scores(probability, label, twin.termination_threshold)


def _reward_errors(windows: _Windows, learned: _RolloutErrors) -> RewardErrors:
    summed = torch.cat([torch.zeros(1), windows.data.rewards]).double().cumsum(0)
    spread = []
    for steps, rows in windows.left:
        first = windows.first[rows]
        spread.append(float((summed[first + steps] - summed[first]).std(correction=0)))
    return RewardErrors(
        steps=windows.steps,
        unit="task units",
        one_step=significant(float(off.abs().mean()) for off in learned.reward),
        return_so_far=significant(float(off.abs().mean()) for off in learned.returns),
        return_spread=significant(spread),
    )


def _ranking(windows: _Windows, learned: _RolloutErrors) -> UncertaintyRanking | None:
    """Rank correlation of uncertainty and error; None for steps with few windows, or with constant values."""
    from scipy.stats import spearmanr

    if np.isnan(learned.uncertainty[0]).all():
        return None
    rank, worst = [], []
    for uncertainty, error in zip(learned.uncertainty, learned.error, strict=True):
        enough = len(error) >= _FEWEST_RANKED and all(
            np.isfinite(values).all() and np.ptp(values) > 0 for values in (uncertainty, error)
        )
        rank.append(float(spearmanr(uncertainty, error).statistic) if enough else math.nan)
        bad = error > np.quantile(error, 0.9) if enough else np.zeros(len(error), bool)
        worst.append(auroc(uncertainty, bad) if bad.any() else math.nan)
    return UncertaintyRanking(
        steps=windows.steps, spearman=significant(rank), auroc=significant(worst)
    )


def _trusted(steps: list[int], error: Tensor, hold_last: Tensor) -> int:
    trusted = (error <= TRUSTED * hold_last) & (error <= TRUSTED)
    return ([0, *steps])[int(trusted.long().cumprod(0).sum())]
