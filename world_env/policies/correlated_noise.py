"""Random actions that are correlated in time."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from gymnasium import spaces

from world_env.errors import InvalidOptionError
from world_env.policies.protocol import Exploration

_BOUND_FRACTION = 0.5
"""Fraction of Box targets drawn at a bound of the space. Full force reaches states that uniform targets do not."""


class CorrelatedNoise(Exploration):
    """Random actions: each dimension keeps its target for a geometrically distributed number of steps.

    hold: mean number of steps that a target is kept, >= 1. Half of the targets of a bounded Box are bounds.
    """

    def __init__(self, space: spaces.Space[Any], hold: float) -> None:
        if not hold >= 1:
            raise InvalidOptionError(f"hold must be >= 1 step, got {hold}")
        self._space = copy.deepcopy(space)
        self._hold = hold
        self._rng = np.random.default_rng(0)
        self._held: np.ndarray | None = None

    def reset(self, seed: int) -> None:
        """Start an episode with new targets."""
        self._space.seed(seed)
        self._rng = np.random.default_rng(seed)
        self._held = None

    def act(self, observation: Any) -> Any:
        """Return the current targets after each dimension was redrawn with probability 1 / hold."""
        target = self._target()
        switch = self._rng.random(target.shape) < 1.0 / self._hold
        self._held = target if self._held is None else np.where(switch, target, self._held)
        return self._held.astype(self._space.dtype)

    def _target(self) -> np.ndarray:
        target = np.asarray(self._space.sample())
        if not isinstance(self._space, spaces.Box):
            return target
        low, high = self._space.low, self._space.high
        bound = np.where(self._rng.random(target.shape) < 0.5, low, high)
        at_bound = (self._rng.random(target.shape) < _BOUND_FRACTION) & np.isfinite(bound)
        return np.where(at_bound, bound, target)
