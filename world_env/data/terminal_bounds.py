"""Hard termination bounds: bounds of single dimensions beyond which every real episode ended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces

from world_env.data.episode import Episode
from world_env.spaces import is_image
from world_env.spec import WorldSpec

MIN_COUNT = 10
"""Terminations that a bound must explain."""


def end_bounds(
    episodes: Sequence[Episode], spec: WorldSpec
) -> tuple[list[float | None], list[float | None]] | None:
    """Find hard termination bounds of the dimensions of a vector observation.

    A bound lies halfway between the outermost observation after which an episode continued and the nearest terminal
    observation beyond it. Bounds are chosen greedily by the number of terminations that they explain: if an angle ends
    the episodes, a high speed at that moment does not. Chance explains few: of N observations and T terminal ones that
    are independent of a dimension, about T / N lie beyond the outermost of the others.

    Returns (low, high), each with one number or None (no bound) per dimension; None if there is no bound at all, the
    observation is not a vector, or fewer than `MIN_COUNT` episodes terminated.
    """
    space = spec.observation_space
    ended = [episode for episode in episodes if episode.terminated]
    if not isinstance(space, spaces.Box) or is_image(space) or len(ended) < MIN_COUNT:
        return None
    continued = [_flat(e)[: len(e) if e.terminated else None] for e in episodes]
    lowest = np.min([part.min(0) for part in continued], axis=0)
    highest = np.max([part.max(0) for part in continued], axis=0)
    terminal = np.stack([_flat(episode)[-1] for episode in ended])
    low: list[float | None] = [None] * len(lowest)
    high = low.copy()
    while True:
        outside = np.concatenate([terminal < lowest, terminal > highest], 1)
        best = int(outside.sum(0).argmax())
        if outside[:, best].sum() < MIN_COUNT:
            break
        place, is_low = best % len(low), best < len(low)
        beyond = terminal[outside[:, best], place]
        if is_low:
            low[place] = float((lowest[place] + beyond.max()) / 2)
        else:
            high[place] = float((highest[place] + beyond.min()) / 2)
        terminal = terminal[~outside[:, best]]
    return (low, high) if any(v is not None for v in (*low, *high)) else None


def _flat(episode: Episode) -> np.ndarray:
    """Observations as (T + 1, D). Integers as float64: sums of small ones overflow."""
    observations = np.asarray(episode.observations)
    if observations.dtype.kind != "f":
        observations = observations.astype(np.float64)
    return observations.reshape(len(observations), -1)
