"""Statistics of a policy's episodes in a twin, and gaps between the returns of two environments."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student_t

from world_env.data_range import DataRange
from world_env.policies.protocol import Policy
from world_env.rollouts.learned import LearnedStep, run_learned
from world_env.rollouts.returns import Returns
from world_env.twin.twin import Twin
from world_env.types import JSON, OBSERVATION

_LEVEL = 0.95
"""One-sided confidence level of mean returns."""
_QUANTILE = 0.9
"""Quantile of uncertainties and changes over the steps: observations may be constant most of the time."""


@dataclass(frozen=True)
class RolloutStatistics:
    """Statistics of a policy's episodes in one twin. None: not available.

    returns: with rewards clipped to the data range, as in training.
    odd_rewards: share of steps with a reward of the model outside the data range.
    quantile: 0.9 quantile of the uncertainty, in units of the twin's threshold.
    motion: 0.9 quantile of the change of the observation per step: largest dimension, in widths of the data range.
    """

    returns: Returns
    odd_rewards: float | None
    quantile: float | None
    motion: float | None

    def to_json(self) -> JSON:
        """{"mean", "length", "odd_rewards", "uncertain", "uncertainty", "motion"}."""
        return {
            "mean": self.returns.mean,
            "length": float(self.returns.lengths.mean()),
            "odd_rewards": self.odd_rewards,
            "uncertain": self.returns.past_threshold,
            "uncertainty": self.quantile,
            "motion": self.motion,
        }


def measure_rollout(
    policy: Policy,
    twin: Twin,
    first: Any,
    ranges: DataRange | None,
    *,
    margin: float = 0.0,
    seed: int = 0,
) -> RolloutStatistics:
    """Play one learned episode from each first observation and compare its steps with the data range.

    margin: of the range of rewards, in widths of that range, or in the largest absolute reward where all are equal.
        Known reward functions are exact: none of their rewards counts as outside.
    """
    rewards, uncertainties, changes = [], [], []
    values = np.zeros(())
    widths = _widths(ranges)
    known = "reward" in twin.known
    clip = (-math.inf, math.inf) if known or twin.ranges is None else twin.ranges.reward

    def measure(step: LearnedStep) -> None:
        nonlocal values
        result, stepped = step.result, step.running
        values = values + np.where(stepped, result.reward.clip(*clip), 0.0)
        rewards.append(result.reward[stepped])
        if result.uncertainty is not None:
            uncertainties.append(result.uncertainty[stepped])
        if widths:
            changes.append(_changes(step.observation, result.observation, widths)[stepped])

    returns = run_learned(policy, _unclipped(twin), first, seed=seed, on_step=measure)
    odd = quantile = motion = None
    if ranges is not None and not known:
        low, high = ranges.reward
        room = margin * ((high - low) or max(abs(low), abs(high)))
        predicted = np.concatenate(rewards)
        odd = float(((predicted < low - room) | (predicted > high + room)).mean())
    if uncertainties and twin.uncertainty_threshold:
        quantile = (
            float(np.quantile(np.concatenate(uncertainties), _QUANTILE))
            / twin.uncertainty_threshold
        )
    if changes:
        motion = float(np.quantile(np.concatenate(changes), _QUANTILE))
    return RolloutStatistics(dataclasses.replace(returns, values=values), odd, quantile, motion)


def sample_first_observations(twin: Twin, episodes: int, seed: int) -> Any:
    """Draw first observations from the initial states of the twin, batched as in the environment."""
    generator = torch.Generator().manual_seed(seed)
    chosen = twin.starts.select(torch.randint(len(twin.starts), (episodes,), generator=generator))
    return twin.codec.decode_observation(chosen.last())


def lower_gap(learned: np.ndarray, other: np.ndarray, *, least: float = 0.0) -> float:
    """Lower end of a one-sided 95 % t-interval of mean(learned) - mean(other), as a share of the larger absolute mean.

    learned, other: (N,) returns from the same initial states, paired. least: smallest scale of the share, task units.
    """
    difference = learned - other
    scale = max(abs(float(learned.mean())), abs(float(other.mean())), least, 1e-9)
    return (float(difference.mean()) - half_width(difference)) / scale


def half_width(values: np.ndarray) -> float:
    """Half width of the one-sided 95 % t-interval of the mean of N >= 2 values."""
    if np.ptp(values) == 0:
        return 0.0
    spread = float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(student_t.ppf(_LEVEL, len(values) - 1)) * spread


def _unclipped(twin: Twin) -> Twin:
    """The twin without clipping of rewards, which would hide rewards outside the data range."""
    if twin.ranges is None:
        return twin
    free = dataclasses.replace(twin.ranges, reward=(-math.inf, math.inf))
    return dataclasses.replace(twin, ranges=free)


def _widths(ranges: DataRange | None) -> dict[str, np.ndarray]:
    """Key -> (D,) widths of the data range; infinite for constant dimensions, whose noise is no change."""
    bounds = {} if ranges is None else ranges.observation
    widths = {key: np.subtract(high, low) for key, (low, high) in bounds.items()}
    return {key: np.where(width > 0, width, np.inf) for key, width in widths.items()}


def _changes(observation: Any, next_observation: Any, widths: dict[str, np.ndarray]) -> np.ndarray:
    """(B,) largest change of any dimension, in widths of the data range."""
    before, after = (
        each if isinstance(each, dict) else {OBSERVATION: each}
        for each in (observation, next_observation)
    )
    moved = [
        np.abs(after[key] - before[key]).reshape(len(after[key]), -1) / width
        for key, width in widths.items()
    ]
    return np.concatenate(moved, axis=1).max(1)
