"""Offsets of columns whose values are too large for float32: timestamps, coordinates in a national grid.

Models see float32 with 24 bits: 1.7e9 plus a fraction would be rounded to multiples of 128.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from gymnasium import spaces

from world_env.data.angles import ObservedEpisode
from world_env.data.statistics import MIN_SPREAD, is_vector
from world_env.spaces import observation_spaces
from world_env.spec import WorldSpec

_MAX_ERROR = 1e-3
"""Rounding error (root mean square) of a column in float32, in units of its typical change, that needs no offset."""
_LARGE, _MIN_WIDTH = 1e4, 1e-10
"""Magnitude of large values, and the share of it from which a range is no rounding error. Smaller values whose range is
below `MIN_SPREAD` of their magnitude are constant up to errors of the simulator."""
_EXACT = 2.0**24
"""Largest magnitude up to which float32 holds every integer."""
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
        # Values beyond float32 are refused where they are encoded.
        with np.errstate(over="ignore", invalid="ignore"):
            needed = _needed(parts)
        needed[[angle.column for angle in spec.angles.get(key, ())]] = False
        if needed.any():
            offsets[key] = [
                _middle(parts, column) if is_needed else 0
                for column, is_needed in enumerate(needed.tolist())
            ]
    return offsets


def _needed(parts: Sequence[np.ndarray]) -> np.ndarray:
    """(D,) bool, True for columns whose changes are lost in float32 and are not after centring."""
    low = np.min([part.min(0) for part in parts], axis=0)
    high = np.max([part.max(0) for part in parts], axis=0)
    width = _difference(high, low)
    magnitude = np.maximum(np.abs(low.astype(np.float64)), np.abs(high.astype(np.float64)))
    # Most columns need no pass over the data.
    needed = (magnitude >= _MIN_GAIN * width / 2.0) & (width > 0.0)
    if low.dtype.kind != "f":
        needed &= magnitude > _EXACT
    else:
        needed &= (width > MIN_SPREAD * magnitude) | are_large(magnitude, width)
    columns = np.flatnonzero(needed)
    if not len(columns):
        return needed
    change, spread = np.zeros((2, len(columns)))
    rows, steps = 0, 0
    for part in parts:
        values = part[:, columns]
        change += np.square(_difference(values[1:], values[:-1])).sum(0)
        spread += np.square(_difference(values, low[columns]) - width[columns] / 2.0).sum(0)
        rows, steps = rows + len(part), steps + max(len(part) - 1, 0)
    change, spread = np.sqrt(change / max(steps, 1)), np.sqrt(spread / rows)
    # A column that moves only between episodes has its spread as its typical change.
    typical = np.where(change > 0.0, np.minimum(change, spread), spread)
    error = np.spacing(magnitude[columns].astype(np.float32)) / math.sqrt(12.0)
    needed[columns] = error > _MAX_ERROR * typical
    return needed


def are_large(magnitude: np.ndarray, width: np.ndarray) -> np.ndarray:
    """(D,) bool, True for large float64 values that move, although they would be constant in float32.

    magnitude: largest absolute values. width: of the range.
    """
    return (magnitude >= _LARGE) & (width > _MIN_WIDTH * magnitude)


def _difference(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Compute values - others as float64. Integers beyond 2^53 are subtracted as integers, modulo 2^64."""
    if values.dtype.kind == "f":
        return values.astype(np.float64) - others.astype(np.float64)
    return (values.astype(np.uint64) - others.astype(np.uint64)).view(np.int64).astype(np.float64)


def _middle(parts: Sequence[np.ndarray], column: int) -> float:
    """Middle of the range of a column; an integer for integers."""
    low = min(part[:, column].min().item() for part in parts)
    high = max(part[:, column].max().item() for part in parts)
    return (low + high) // 2 if isinstance(low, int) else low + (high - low) / 2.0
