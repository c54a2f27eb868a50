"""What a policy's episodes in one twin show besides their returns, and whether one world pays more than another."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student_t

from world_env.data_range import DataRange
from world_env.rollouts.actors import Actor
from world_env.rollouts.learned import run_learned
from world_env.rollouts.returns import Returns
from world_env.simulation.simulator import StepResult
from world_env.twin.twin import Twin
from world_env.types import JSON, OBSERVATION

_LEVEL = 0.95
"""One-sided confidence of what is said about mean returns."""
_BUSY = 0.9
"""Quantile of uncertainties and changes: policies may rest most of the time, worlds that move do it at some time."""


@dataclass(frozen=True)
class RolloutStatistics:
    """What a policy's episodes in one twin showed.

    returns: as the policy would be paid. odd_rewards: share of steps that the model paid outside the data's range.
    quantile: of uncertainty, at 0.9, in units of the twin's threshold.
    motion: usual largest change of a step (its 0.9 quantile), in widths of the data's range, largest dimension.
    None where it is not known.
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


def live(
    actor: Actor,
    twin: Twin,
    first: Any,
    ranges: DataRange | None,
    *,
    margin: float = 0.0,
    seed: int = 0,
) -> RolloutStatistics:
    """One learned episode from each first observation, and what its steps showed against the data's `ranges`.

    margin: how far outside the data's range a reward is odd, in widths of that range, or in the largest reward where
        all are equal. Known reward functions are exact: none of theirs is odd.
    """
    rewards, doubts, changes = [], [], []
    values = np.zeros(())
    widths = _widths(ranges)
    known = "reward" in twin.known
    clip = (-math.inf, math.inf) if known or twin.ranges is None else twin.ranges.reward

    def watch(left: Any, result: StepResult, stepped: np.ndarray) -> None:
        nonlocal values
        values = values + np.where(stepped, result.reward.clip(*clip), 0.0)
        rewards.append(result.reward[stepped])
        if result.uncertainty is not None:
            doubts.append(result.uncertainty[stepped])
        if widths:
            changes.append(_changes(left, result.observation, widths)[stepped])

    returns = run_learned(actor, _unclipped(twin), first, seed=seed, watch=watch)
    odd = quantile = motion = None
    if ranges is not None and not known:
        low, high = ranges.reward
        room = margin * ((high - low) or max(abs(low), abs(high)))
        paid = np.concatenate(rewards)
        odd = float(((paid < low - room) | (paid > high + room)).mean())
    if doubts and twin.uncertainty_threshold:
        quantile = float(np.quantile(np.concatenate(doubts), _BUSY)) / twin.uncertainty_threshold
    if changes:
        motion = float(np.quantile(np.concatenate(changes), _BUSY))
    return RolloutStatistics(dataclasses.replace(returns, values=values), odd, quantile, motion)


def starts_of(twin: Twin, rows: int, seed: int) -> Any:
    """First observations for `rows` episodes, drawn from the twin's true starts; environment arrays."""
    generator = torch.Generator().manual_seed(seed)
    chosen = twin.starts.select(torch.randint(len(twin.starts), (rows,), generator=generator))
    return twin.codec.decode_observation(chosen.last())


def lower_gap(learned: np.ndarray, other: np.ndarray, *, least: float = 0.0) -> float:
    """How far the mean of `learned` lies above that of `other` at least, as a share of the larger of their sizes.

    learned, other: (N,) returns from the same starts, paired. At least: the lower end of a one-sided 95 % t-interval.
    least: the share is of no less than this.
    """
    difference = learned - other
    scale = max(abs(float(learned.mean())), abs(float(other.mean())), least, 1e-9)
    return (float(difference.mean()) - half_width(difference)) / scale


def half_width(values: np.ndarray) -> float:
    """From the mean of N >= 2 values to the end of its one-sided 95 % t-interval."""
    if np.ptp(values) == 0:
        return 0.0
    spread = float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(student_t.ppf(_LEVEL, len(values) - 1)) * spread


def _unclipped(twin: Twin) -> Twin:
    """The twin as its model pays: clipping to the data's rewards would hide what the model says beyond them."""
    if twin.ranges is None:
        return twin
    free = dataclasses.replace(twin.ranges, reward=(-math.inf, math.inf))
    return dataclasses.replace(twin, ranges=free)


def _widths(ranges: DataRange | None) -> dict[str, np.ndarray]:
    """Key -> (D,) widths of the data's range; constant dimensions are infinitely wide: their noise is no motion."""
    seen = {} if ranges is None else ranges.observation
    widths = {key: np.subtract(high, low) for key, (low, high) in seen.items()}
    return {key: np.where(width > 0, width, np.inf) for key, width in widths.items()}


def _changes(left: Any, arrived: Any, widths: dict[str, np.ndarray]) -> np.ndarray:
    """(B,) largest change of any dimension, in widths of the data's range."""
    before, after = (
        each if isinstance(each, dict) else {OBSERVATION: each} for each in (left, arrived)
    )
    moved = [
        np.abs(after[key] - before[key]).reshape(len(after[key]), -1) / width
        for key, width in widths.items()
    ]
    return np.concatenate(moved, axis=1).max(1)
