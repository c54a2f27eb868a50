"""Offsets of columns whose values are too large for float32: timestamps, coordinates in a national grid.

Models see float32 with 24 bits: 1.7e9 plus a fraction would be rounded to multiples of 128.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from gymnasium import spaces

from world_env.data.angles import ObservedEpisode
from world_env.data.statistics import is_vector
from world_env.spaces import observation_spaces
from world_env.spec import WorldSpec

_MAX_ERROR = 1e-3
"""Rounding error (root mean square) of a column in float32, in units of its typical change, that needs no offset."""
_MIN_GAIN = 8.0
"""Ratio of the largest magnitude to that after centring, below which an offset has no use."""


def float32_offsets(episodes: Iterable[ObservedEpisode], spec: WorldSpec) -> dict[str, list[float]]:
    """Offsets of `DataRange.offset`: the middle of the range of each column that float32 does not resolve, else 0.

    Keys without such a column are left out. Angles of the spec are bounded and have none.
    """
    observed = [episode.observation_columns() for episode in episodes]
    offsets = {}
    for key, space in observation_spaces(spec.observation_space).items():
        if not (isinstance(space, spaces.Box) and is_vector(space)):
            continue
        if np.dtype(space.dtype).itemsize <= (4 if space.dtype.kind == "f" else 2):
            continue
        parts = [columns[key].reshape(len(columns[key]), -1) for columns in observed]
        needed = _needed(parts, math.prod(space.shape))
        needed[[angle.column for angle in spec.angles.get(key, ())]] = False
        if needed.any():
            offsets[key] = [
                _middle(parts, column) if is_needed else 0
                for column, is_needed in enumerate(needed.tolist())
            ]
    return offsets


def _needed(parts: Sequence[np.ndarray], size: int) -> np.ndarray:
    """(D,) bool, True for columns whose changes are lost in float32 and are not after centring."""
    low = np.min([part.min(0) for part in parts], axis=0).astype(np.float64)
    high = np.max([part.max(0) for part in parts], axis=0).astype(np.float64)
    magnitude, centred = np.maximum(np.abs(low), np.abs(high)), (high - low) / 2.0
    # Rounding errors are at most 2^-24 of the magnitude: most columns need no second pass.
    needed = (magnitude >= _MIN_GAIN * centred) & (high > low)
    columns = np.flatnonzero(needed)
    if not len(columns):
        return needed
    error, change, spread = np.zeros((3, len(columns)))
    rows, steps = 0, 0
    for part in parts:
        values = part[:, columns]
        rounded = values.astype(np.float32).astype(np.float64)
        error += np.square(values.astype(np.float64) - rounded).sum(0)
        # Differences of integers beyond 2^53 are exact in their own type only; unsigned ones wrap around.
        moved = np.diff(values, axis=0) if values.dtype.kind == "f" else _differences(values)
        change += np.square(moved.astype(np.float64)).sum(0)
        spread += np.square(values.astype(np.float64) - (low + centred)[columns]).sum(0)
        rows, steps = rows + len(part), steps + max(len(part) - 1, 0)
    change, spread = np.sqrt(change / max(steps, 1)), np.sqrt(spread / rows)
    # A column that moves only between episodes has its spread as its typical change.
    typical = np.where(change > 0.0, np.minimum(change, spread), spread)
    needed[columns] = np.sqrt(error / rows) > _MAX_ERROR * typical
    return needed


def _differences(values: np.ndarray) -> np.ndarray:
    return np.diff(values.astype(np.uint64), axis=0).view(np.int64)


def _middle(parts: Sequence[np.ndarray], column: int) -> float:
    """Middle of the range of a column; an integer for integers."""
    low = min(part[:, column].min().item() for part in parts)
    high = max(part[:, column].max().item() for part in parts)
    return (low + high) // 2 if isinstance(low, int) else low + (high - low) / 2.0
