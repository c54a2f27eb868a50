"""Random actions that are correlated in time."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from world_env.errors import InvalidOptionError
from world_env.policies.protocol import EpisodicPolicy

_BOUND_FRACTION = 0.5
"""Fraction of Box targets drawn at a bound of the space. Full force reaches states that uniform targets do not."""


@dataclass
class _Episode:
    space: spaces.Space[Any]
    rng: np.random.Generator
    held: np.ndarray | None = None


class HeldPolicy(EpisodicPolicy[_Episode]):
    """Random actions: each dimension keeps its target for a geometrically distributed number of steps.

    steps: mean number of steps that a target is kept, >= 1. Half of the targets of a bounded Box are bounds.
    """

    def __init__(self, space: spaces.Space[Any], steps: float) -> None:
        super().__init__()
        if not steps >= 1:
            raise InvalidOptionError(f"steps that an action is held must be >= 1, got {steps}")
        self._space, self._steps = space, steps

    def begin(self, seed: int) -> _Episode:
        """Start an episode with new targets."""
        space = copy.deepcopy(self._space)
        space.seed(seed)
        return _Episode(space, np.random.default_rng(seed))

    def act_one(self, observation: Any, episode: _Episode) -> Any:
        """Return the current targets after each dimension was redrawn with probability 1 / steps."""
        target = _target(episode)
        switch = episode.rng.random(target.shape) < 1.0 / self._steps
        held = target if episode.held is None else np.where(switch, target, episode.held)
        episode.held = held
        return held.astype(episode.space.dtype)


def _target(episode: _Episode) -> np.ndarray:
    target = np.asarray(episode.space.sample())
    if not isinstance(episode.space, spaces.Box):
        return target
    low, high = episode.space.low, episode.space.high
    bound = np.where(episode.rng.random(target.shape) < 0.5, low, high)
    at_bound = (episode.rng.random(target.shape) < _BOUND_FRACTION) & np.isfinite(bound)
    return np.where(at_bound, bound, target)
