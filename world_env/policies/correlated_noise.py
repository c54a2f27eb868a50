"""Actions with noise that is correlated in time."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from gymnasium import spaces

from world_env.errors import InvalidOptionError
from world_env.policies.protocol import Exploration

_EXTREME = 0.5
"""Share of held Box targets that lie at a bound: full force reaches further than its mean does."""


class CorrelatedNoise(Exploration):
    """Random actions that last: each dimension keeps its target for a geometric time.

    hold: mean steps that a target is held, at least 1. Half of bounded Box targets are extremes.
    """

    def __init__(self, space: spaces.Space[Any], hold: float) -> None:
        if not hold >= 1:
            raise InvalidOptionError(f"actions are held for {hold} steps on average, expected >= 1")
        self._space = copy.deepcopy(space)
        self._hold = hold
        self._rng = np.random.default_rng(0)
        self._held: np.ndarray | None = None

    def reset(self, seed: int) -> None:
        """Begin an episode with fresh targets."""
        self._space.seed(seed)
        self._rng = np.random.default_rng(seed)
        self._held = None

    def act(self, observation: Any) -> Any:
        """The held action, each dimension replaced with probability 1 / hold."""
        target = self._target()
        switch = self._rng.random(target.shape) < 1.0 / self._hold
        self._held = target if self._held is None else np.where(switch, target, self._held)
        return self._held.astype(self._space.dtype)

    def _target(self) -> np.ndarray:
        target = np.asarray(self._space.sample())
        if not isinstance(self._space, spaces.Box):
            return target
        low, high = self._space.low, self._space.high
        extreme = np.where(self._rng.random(target.shape) < 0.5, low, high)
        chosen = (self._rng.random(target.shape) < _EXTREME) & np.isfinite(extreme)
        return np.where(chosen, extreme, target)
