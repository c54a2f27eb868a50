"""Sharp ends: bounds of single dimensions beyond which no real episode ever went on.

Many tasks end where one number passes a limit: an angle, a height. A network learns such a limit only as sharply as the
data that crossed it slowly, and a policy finds the rest: it hovers a little beyond, where in reality it would be over.
The data tells such limits themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from world_env.data_range import DataRange
from world_env.simulation.config import SimulatorConfig


class TerminalBounds:
    """The bounds in a data range, quick to ask; none of them where there is no range, or nothing in it ended so."""

    def __init__(self, ranges: DataRange | None) -> None:
        low, high = ([], []) if ranges is None or ranges.ends is None else ranges.ends
        self._below = [place for place, value in enumerate(low) if value is not None]
        self._above = [place for place, value in enumerate(high) if value is not None]
        self._low = np.array([value for value in low if value is not None])
        self._high = np.array([value for value in high if value is not None])

    def __bool__(self) -> bool:
        return bool(self._below or self._above)

    def told(self) -> list[str]:
        """Each as a text."""
        below = zip(self._below, self._low.tolist(), strict=True)
        above = zip(self._above, self._high.tolist(), strict=True)
        return [f"dimension {place} below {value:.4g}" for place, value in below] + [
            f"dimension {place} above {value:.4g}" for place, value in above
        ]

    def beyond(self, observation: Any) -> np.ndarray:
        """(B,) bool: which of the observations (B, *O), environment units, lie beyond one of them."""
        flat = np.asarray(observation).reshape(len(observation), -1)
        below = (flat[:, self._below] < self._low).any(1)
        return np.asarray(below | (flat[:, self._above] > self._high).any(1))


ENDS = ("", "terminated", "horizon", "rollout", "uncertainty", "non_finite")
"""`info["end"]` by code: why a row's episode ended; "" while it goes on."""


_ROLLOUT, _HORIZON, _UNCERTAIN, _NON_FINITE = (
    ENDS.index(name) for name in ("rollout", "horizon", "uncertainty", "non_finite")
)


@dataclass(frozen=True)
class Limits:
    """What ends an episode besides the world itself.

    horizon: steps from the real start; None: no limit. threshold: largest trusted uncertainty; None: no rule.
    lowest_reward: of one step in the data, task units.
    """

    config: SimulatorConfig
    horizon: int | None
    threshold: float | None
    lowest_reward: float

    def judge(
        self,
        reward: np.ndarray,
        terminated: np.ndarray,
        uncertainty: np.ndarray | None,
        counters: np.ndarray,
        stepped: np.ndarray | None,
        finite: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(reward (B,) float32, terminated (B,) bool, end (B,) int8) after a step, fresh arrays.

        counters: (2, B) steps since the real start / since this rollout began, this step included.
        stepped: (B,) bool, the other rows did not move; None: all did.
        finite: (B,) bool, whether the prediction was a number; None: all are.
        """
        elapsed, age = counters
        alive: np.ndarray | bool = True
        for mask in (stepped, finite):
            alive = alive if mask is None else alive & mask
        if alive is not True:
            terminated = terminated & alive
        # "terminated" is code 1: what is a bool already counts as one.
        end = terminated.astype(np.int8)
        rule = self.config.on_uncertain
        if uncertainty is not None and rule != "ignore" and self.threshold is not None:
            cut = (uncertainty > self.threshold) & alive & (end == 0)
            end[cut] = _UNCERTAIN
            if rule == "pessimistic":
                reward = np.where(cut, self._worst_rest(elapsed), reward)
            if rule in ("terminate", "pessimistic"):
                terminated = terminated | cut
        moved = True if stepped is None else stepped
        branch = self.config.branch_length
        if branch is not None:
            # Of those that began inside the data more steps have passed since the real start than since they began.
            end[(age >= branch) & (elapsed > age) & moved & (end == 0)] = _ROLLOUT
        for limit, steps, code in (
            (self.config.rollout_length, age, _ROLLOUT),
            (self.horizon, elapsed, _HORIZON),
        ):
            if limit is not None and int(steps.max()) >= limit:
                # The task's own limit names the end where both apply.
                at_limit = (steps >= limit) & moved & ((end == 0) | (end == _ROLLOUT))
                end[at_limit] = code
        if finite is not None:
            end[~finite & moved] = _NON_FINITE
        reward = reward.astype(np.float32) if alive is True else np.where(alive, reward, 0.0)
        return reward.astype(np.float32, copy=False), terminated, end

    def _worst_rest(self, elapsed: np.ndarray) -> np.ndarray:
        """The lowest reward in the data for this step and every one left; never above 0."""
        left = 1 if self.horizon is None else np.maximum(self.horizon - elapsed, 0) + 1
        return np.asarray(min(self.lowest_reward, 0.0) * left)
