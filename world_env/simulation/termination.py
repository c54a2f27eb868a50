"""Ends of episodes: hard termination bounds, time limits, uncertainty and non-finite predictions.

A hard termination bound is a bound of one observation dimension beyond which every data episode ended, for example an
angle or a height. A network learns such a limit only approximately, and a policy can exploit states slightly beyond it.
The bounds are therefore read from the data and applied exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from world_env.data_range import DataRange
from world_env.simulation.config import SimulatorConfig


class TerminalBounds:
    """Hard termination bounds of a data range. Empty, and False, if the data has none.

    ranges: the data range of a twin; None: no bounds.
    """

    def __init__(self, ranges: DataRange | None) -> None:
        low, high = ([], []) if ranges is None or ranges.ends is None else ranges.ends
        self._below = [place for place, value in enumerate(low) if value is not None]
        self._above = [place for place, value in enumerate(high) if value is not None]
        self._low = np.array([value for value in low if value is not None])
        self._high = np.array([value for value in high if value is not None])

    def __bool__(self) -> bool:
        return bool(self._below or self._above)

    def descriptions(self) -> list[str]:
        """Return a text per bound."""
        below = zip(self._below, self._low.tolist(), strict=True)
        above = zip(self._above, self._high.tolist(), strict=True)
        return [f"dimension {place} below {value:.4g}" for place, value in below] + [
            f"dimension {place} above {value:.4g}" for place, value in above
        ]

    def beyond(self, observation: Any) -> np.ndarray:
        """Return (B,) bool, True for observations (B, *O) beyond at least one bound, in environment units."""
        flat = np.asarray(observation).reshape(len(observation), -1)
        below = (flat[:, self._below] < self._low).any(1)
        return np.asarray(below | (flat[:, self._above] > self._high).any(1))


class EpisodeEnd(IntEnum):
    """Reason why an episode ended: the numbers in `info["end"]`, for example `EpisodeEnd(info["end"]).name`."""

    RUNNING = 0
    """The episode is running."""
    TERMINATED = 1
    """Termination by the world model, a known function or a hard termination bound."""
    HORIZON = 2
    """The task's time limit."""
    ROLLOUT = 3
    """`rollout_length` or `dataset_rollout_length`."""
    UNCERTAINTY = 4
    """The `on_uncertain` rule."""
    NON_FINITE = 5
    """NaN or infinite predictions."""


ENDS = ("", *(end.name.lower() for end in EpisodeEnd if end))
"""Names of the reasons in lower case, by number; "" while the episode is running."""
_ROLLOUT, _HORIZON, _UNCERTAIN, _NON_FINITE = (
    ENDS.index(name) for name in ("rollout", "horizon", "uncertainty", "non_finite")
)


@dataclass(frozen=True)
class EpisodeLimits:
    """Time limits and uncertainty rule of a simulator, applied after each step."""

    config: SimulatorConfig
    horizon: int | None
    """Time limit in steps from the real initial state; None: no limit."""
    threshold: float | None
    """Uncertainty above which `config.on_uncertain` applies; None: never."""
    lowest_reward: float
    """Lowest reward of one step in the data, in task units."""

    def apply(
        self,
        reward: np.ndarray,
        terminated: np.ndarray,
        uncertainty: np.ndarray | None,
        counters: np.ndarray,
        stepped: np.ndarray | None,
        finite: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return new arrays (reward (B,) float32, terminated (B,) bool, end (B,) int8) of a step.

        uncertainty: (B,), or None if it is not computed.
        counters: (2, B) steps since the real initial state and since the reset, including this step.
        stepped: (B,) bool, False for environments that did not step; None: all stepped.
        finite: (B,) bool, False for non-finite predictions; None: all are finite.
        """
        elapsed, age = counters
        valid: np.ndarray | bool = True
        for mask in (stepped, finite):
            valid = valid if mask is None else valid & mask
        if valid is not True:
            terminated = terminated & valid
        # "terminated" has code 1, the integer value of True.
        end = terminated.astype(np.int8)
        rule = self.config.on_uncertain
        if uncertainty is not None and rule != "ignore" and self.threshold is not None:
            cut = (uncertainty > self.threshold) & valid & (end == 0)
            end[cut] = _UNCERTAIN
            if rule == "pessimistic":
                reward = np.where(cut, self._lowest_remaining(elapsed), reward)
            if rule in ("terminate", "pessimistic"):
                terminated = terminated | cut
        moved = True if stepped is None else stepped
        dataset_rollout_length = self.config.dataset_rollout_length
        if dataset_rollout_length is not None:
            # A rollout that started inside a data episode has more steps since the real initial state than since reset.
            end[(age >= dataset_rollout_length) & (elapsed > age) & moved & (end == 0)] = _ROLLOUT
        for limit, steps, code in (
            (self.config.rollout_length, age, _ROLLOUT),
            (self.horizon, elapsed, _HORIZON),
        ):
            if limit is not None and int(steps.max()) >= limit:
                # If both limits apply, the task's time limit is the reason.
                at_limit = (steps >= limit) & moved & ((end == 0) | (end == _ROLLOUT))
                end[at_limit] = code
        if finite is not None:
            end[~finite & moved] = _NON_FINITE
        reward = reward.astype(np.float32) if valid is True else np.where(valid, reward, 0.0)
        return reward.astype(np.float32, copy=False), terminated, end

    def _lowest_remaining(self, elapsed: np.ndarray) -> np.ndarray:
        """Return the lowest reward in the data, at most 0, times the number of remaining steps with this one."""
        remaining = 1 if self.horizon is None else np.maximum(self.horizon - elapsed, 0) + 1
        return np.asarray(min(self.lowest_reward, 0.0) * remaining)
