"""How far ahead a twin can be trusted: its errors on held-out episodes, by horizon and by dimension.

Rollouts see as many real observations as a state is inferred from, and then only the real actions. They begin all over
the data, and at the beginning of the longest episodes, so that the last steps rest on as many of them as there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from world_env.batch import Observation, State, select
from world_env.data.dataset import EncodedEpisodes, encode_episodes
from world_env.data.episode import Episode
from world_env.model_evaluation.errors import deviations, over_keys, scales_of, significant
from world_env.model_evaluation.open_loop import measured_steps, one_step, state_at
from world_env.model_evaluation.survival import survival
from world_env.model_evaluation.termination import auroc, termination_scores
from world_env.models.base import Prediction, WorldModel
from world_env.rng import CounterRNG
from world_env.spaces import is_image
from world_env.twin.twin import Twin
from world_env.types import JSON, Uncertainty

TRUSTED = 0.5
"""A step is trusted where its error is at most this share of hold-last's, and at most so many standard deviations.

Errors count squared: at one half, three quarters of what moved since the start are foreseen, and of what varies in the
data. Either bound alone is too mild: the first for a world that has long forgotten its start, the second for one that
hardly moves.
"""
_SPREAD, _BEGINNINGS = 256, 64
"""Most windows all over the data, and most that begin an episode."""
_FEWEST_RANKED = 20
"""Windows below which an order says nothing: the worst tenth should be more than one of them."""


def measure_horizons(
    twin: Twin,
    held_out_episodes: Sequence[Episode],
    *,
    linear: WorldModel | None = None,
    seed: int = 0,
) -> JSON:
    """A twin's errors by horizon, on episodes that it never learned from, as strict JSON.

    "observation": "steps"; "unit"; "names" of the dimensions (an image's pixels count as one); "rows", windows left
        per step; and, per dimension and step, the root mean square "error", "hold_last" (nothing moves) and "linear"
        (the given baseline, or None).
    "reward": per step the mean absolute error of the step's own reward ("one_step") and of the return so far
        ("return"), and the standard deviation of the real returns ("return_spread"), task units; episodes end where
        the real ones do.
    "termination": `fidelity.termination_scores` of single real steps; None where a known function ends the episodes.
    "survival": as `world_env.model_evaluation.survival.survival` has it.
    "uncertainty": per step, Spearman's rank correlation over the windows between the true error and the mean
        uncertainty so far ("running": "mean"), and the latter's AUROC for the worst tenth of the errors; None where
        the model knows no uncertainty, and for steps with few windows.
    "trusted_horizon": the last of the measured steps that is trusted (`TRUSTED`) with all before it; 0: none is.
        "rows" says how many windows that rests on.
    """
    windows = _Windows.of(encode_episodes(held_out_episodes, twin.codec))
    actions = np.concatenate([episode.actions for episode in held_out_episodes])
    learned = _rolled(twin, windows, actions, seed)
    squared = torch.stack(learned.squared)
    still = torch.stack(
        [windows.squared(windows.start(rows), rows, steps).mean(0) for steps, rows in windows.left]
    )
    return {
        "observation": {
            "steps": windows.steps,
            "unit": "standard deviations of the data",
            "names": windows.names,
            "rows": [len(rows) for _, rows in windows.left],
            "error": windows.by_dimension(squared),
            "hold_last": windows.by_dimension(still),
            "linear": None if linear is None else _baseline(linear, windows, seed),
        },
        "reward": _reward_errors(windows, learned),
        "termination": _termination(twin, windows.data, seed),
        "survival": survival(twin, held_out_episodes, seed=seed),
        "uncertainty": _ranking(windows, learned),
        "trusted_horizon": _trusted(
            windows.steps, *(over_keys(each, windows.scale).sqrt() for each in (squared, still))
        ),
    }


@dataclass(frozen=True)
class Ahead:
    """What a model says after `steps` steps of the R windows that last so long.

    rows: (R,) int64, which windows. place: (R,) int64, the real step's number in the data.
    left, observation: the state before that step, what is seen after it.
    """

    steps: int
    rows: Tensor
    place: Tensor
    left: State
    observation: Observation
    prediction: Prediction


@torch.no_grad()
def roll(
    model: WorldModel,
    data: EncodedEpisodes,
    first: Tensor,
    *,
    seed: int = 0,
    uncertainty: Uncertainty = False,
) -> Iterator[Ahead]:
    """A model's most likely future along the data, from the steps `first` (W,) to the ends of their episodes."""
    model = model.for_inference()
    rows, rng = torch.arange(len(first)), CounterRNG.from_seed(seed, len(first))
    state = state_at(model, data, first, rng)
    for steps in range(1, int(data.left[first].max()) + 1):
        lasting = data.left[first[rows]] >= steps
        if not lasting.all():
            kept = lasting.nonzero().squeeze(1)
            rows, state, rng = rows[kept], select(state, kept), rng.select(kept)
        place, left = first[rows] + steps - 1, state
        action = data.actions[place]
        state, prediction = model.step(
            left, action, rng=rng, temperature=0.0, uncertainty=uncertainty
        )
        yield Ahead(steps, rows, place, left, model.decode(state), prediction)


@dataclass(frozen=True)
class _Windows:
    """Where rollouts begin, how far they go, and what they are compared with.

    first: (W,) int64 steps of the data. steps: what is measured. left: for each, itself and (R,) the windows that last
    so long.
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
        """One for each dimension, and one for each image."""
        return [
            key if is_image(space) else f"{key}[{i}]"
            for key, space in self.data.codec.keys.items()
            for i in range(1 if is_image(space) else self.scale[key].numel())
        ]

    def start(self, rows: Tensor) -> Observation:
        first = self.first[rows]
        return self.data.seen(first + self.data.episode[first])

    def squared(self, seen: Observation, rows: Tensor, steps: int) -> Tensor:
        """(R, D) squared deviations of what is seen from what was real, `steps` steps into the given windows."""
        first = self.first[rows]
        real = self.data.seen(first + self.data.episode[first] + steps)
        return deviations(seen, real, self.scale).square()

    def by_dimension(self, squared: Tensor) -> list[list[float | None]]:
        """(G, D) mean squares as root mean squares, for each name a list over the G steps."""
        keys = self.data.codec.keys
        parts = squared.split([self.scale[key].numel() for key in keys], dim=-1)
        named = [
            part.mean(-1, keepdim=True) if is_image(space) else part
            for part, space in zip(parts, keys.values(), strict=True)
        ]
        return [significant(column) for column in torch.cat(named, -1).sqrt().T.tolist()]


@dataclass(frozen=True)
class _Rolled:
    """A twin's rollouts, one entry for each measured step; R windows are left by then.

    squared: (D,) mean over the windows. error: (R,) over all dimensions. reward, returns: (R,) signed errors of this
    step's reward and of all so far. doubt: (R,) sum of the uncertainties so far; NaN where the model knows none.
    """

    squared: list[Tensor] = field(default_factory=list)
    error: list[np.ndarray] = field(default_factory=list)
    reward: list[Tensor] = field(default_factory=list)
    returns: list[Tensor] = field(default_factory=list)
    doubt: list[np.ndarray] = field(default_factory=list)


def _rolled(twin: Twin, windows: _Windows, actions: np.ndarray, seed: int) -> _Rolled:
    """actions: (N, ...) of the data, as the environment took them."""
    data, first = windows.data, windows.first
    total, doubt = torch.zeros(2, len(first), dtype=torch.float64)
    rolled = _Rolled()
    for ahead in roll(twin.model, data, first, seed=seed, uncertainty="full"):
        rows, known = ahead.rows, ahead.prediction.uncertainty
        off = _paid(twin, data, actions, ahead) - data.rewards[ahead.place]
        total[rows] += off
        doubt[rows] += math.nan if known is None else known
        if ahead.steps not in windows.steps:
            continue
        away = windows.squared(ahead.observation, rows, ahead.steps)
        rolled.squared.append(away.mean(0))
        rolled.error.append(over_keys(away, windows.scale).sqrt().numpy())
        rolled.reward.append(off)
        rolled.returns.append(total[rows])
        rolled.doubt.append(doubt[rows].numpy())
    return rolled


def _paid(twin: Twin, data: EncodedEpisodes, actions: np.ndarray, ahead: Ahead) -> Tensor:
    """(R,) the learned reward as a simulator pays it, where the episode goes on or ends as the real one."""
    codec, said = twin.codec, ahead.prediction
    if twin.reward_fn is not None:
        before = codec.decode_observation(twin.model.decode(ahead.left))
        after = codec.decode_observation(ahead.observation)
        return torch.as_tensor(twin.reward_fn(before, actions[ahead.place.numpy()], after))
    reward = said.reward
    if said.terminal_reward is not None:
        reward = torch.where(data.terminated[ahead.place] > 0, said.terminal_reward, reward)
    return torch.from_numpy(codec.clip_reward(reward.numpy()))


def _baseline(model: WorldModel, windows: _Windows, seed: int) -> list[list[float | None]]:
    rollout = roll(model, windows.data, windows.first, seed=seed)
    squared = [
        windows.squared(ahead.observation, ahead.rows, ahead.steps).mean(0)
        for ahead in rollout
        if ahead.steps in windows.steps
    ]
    return windows.by_dimension(torch.stack(squared))


def _termination(twin: Twin, data: EncodedEpisodes, seed: int) -> JSON | None:
    if twin.termination_fn is not None:
        return None
    probability, label, _ = one_step(twin.model, data, seed=seed, ranges=twin.ranges)
    return termination_scores(probability, label, twin.termination_threshold)


def _reward_errors(windows: _Windows, learned: _Rolled) -> JSON:
    summed = torch.cat([torch.zeros(1), windows.data.rewards]).double().cumsum(0)
    spread = []
    for steps, rows in windows.left:
        first = windows.first[rows]
        spread.append(float((summed[first + steps] - summed[first]).std(correction=0)))
    return {
        "steps": windows.steps,
        "unit": "task units",
        "one_step": significant(float(off.abs().mean()) for off in learned.reward),
        "return": significant(float(off.abs().mean()) for off in learned.returns),
        "return_spread": significant(spread),
    }


def _ranking(windows: _Windows, learned: _Rolled) -> JSON | None:
    """Whether doubt tells where the rollout is wrong; None per step where windows are few or all alike."""
    from scipy.stats import spearmanr

    if np.isnan(learned.doubt[0]).all():
        return None
    rank, worst = [], []
    for doubt, error in zip(learned.doubt, learned.error, strict=True):
        told = len(error) >= _FEWEST_RANKED and all(
            np.isfinite(values).all() and np.ptp(values) > 0 for values in (doubt, error)
        )
        rank.append(float(spearmanr(doubt, error).statistic) if told else math.nan)
        bad = error > np.quantile(error, 0.9) if told else np.zeros(len(error), bool)
        worst.append(auroc(doubt, bad) if bad.any() else math.nan)
    return {
        "steps": windows.steps,
        "running": "mean",
        "spearman": significant(rank),
        "auroc": significant(worst),
    }


def _trusted(steps: list[int], error: Tensor, hold_last: Tensor) -> int:
    good = (error <= TRUSTED * hold_last) & (error <= TRUSTED)
    return ([0, *steps])[int(good.long().cumprod(0).sum())]
