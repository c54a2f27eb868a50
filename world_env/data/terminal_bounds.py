"""Sharp ends in real episodes: bounds of single dimensions beyond which nothing ever went on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces

from world_env.data.episode import Episode
from world_env.spaces import is_image
from world_env.spec import WorldSpec

MIN_COUNT = 10
"""Ends that a bound has to explain."""


def end_bounds(
    episodes: Sequence[Episode], spec: WorldSpec
) -> tuple[list[float | None], list[float | None]] | None:
    """(low, high) of each dimension of a vector observation, None where there is no bound; None where there is none.

    A bound lies halfway between the outermost observation that an episode went on from and the nearest one beyond that
    ended it. The one that explains most ends is taken first, and then those that explain what is left: where an angle
    ends an episode, a speed that is high just then does not. Chance gives a bound few ends: of N observations and T
    ends that have nothing to do with a dimension, T / N lie beyond the outermost one of the others.
    """
    space = spec.observation_space
    ended = [episode for episode in episodes if episode.terminated]
    if not isinstance(space, spaces.Box) or is_image(space) or len(ended) < MIN_COUNT:
        return None
    alive = np.concatenate([_flat(e)[: len(e) if e.terminated else None] for e in episodes])
    left = np.stack([_flat(episode)[-1] for episode in ended])
    lowest, highest = alive.min(0), alive.max(0)
    low: list[float | None] = [None] * len(lowest)
    high = low.copy()
    while True:
        outside = np.concatenate([left < lowest, left > highest], 1)
        best = int(outside.sum(0).argmax())
        if outside[:, best].sum() < MIN_COUNT:
            break
        place, is_low = best % len(low), best < len(low)
        beyond = left[outside[:, best], place]
        if is_low:
            low[place] = float((lowest[place] + beyond.max()) / 2)
        else:
            high[place] = float((highest[place] + beyond.min()) / 2)
        left = left[~outside[:, best]]
    return (low, high) if any(v is not None for v in (*low, *high)) else None


def _flat(episode: Episode) -> np.ndarray:
    """(T + 1, D) observations."""
    observations = np.asarray(episode.observations)
    return observations.reshape(len(observations), -1)
