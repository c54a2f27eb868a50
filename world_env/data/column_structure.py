"""Structure of the columns of a data set: unit vectors, and columns that return to a resting value."""

from __future__ import annotations

import numpy as np

_ROUNDING = 1e-5
"""Tolerance of the sum of squares of a unit vector."""
_MIN_REST_SHARE = 0.5
"""Share of the observations in which a column must be at rest."""
_MIN_CHANGE = 0.5
"""RMS change per step, in units of the RMS distance from rest, above which a column returns to rest quickly."""
_MIN_RANGE_OF_SQUARES = 1e-3
"""Range of a column's squares below which the column counts as constant."""
_SAMPLE_ROWS = 64
"""Rows of the first, cheap test that rejects most groups of columns."""


def returns_to_rest(
    values: np.ndarray, changes: np.ndarray, center: np.ndarray, rounding: np.ndarray
) -> np.ndarray:
    """Find columns that rest at their center, leave it occasionally and return within a few steps.

    Contact forces are an example: with predicted changes they would drift away from rest. A flag, which keeps its new
    value, is not one of them.

    values: (M, D) observations.
    changes: (N, D) changes from one observation to the next.
    center: (D,) resting values.
    rounding: (D,) distance from the center that still counts as rest.

    Returns (D,) bool.
    """
    away = values - center
    at_rest = np.abs(away) <= rounding
    change, size = (np.square(part, dtype=np.float64).mean(0) for part in (changes, away))
    returns_quickly = change > _MIN_CHANGE**2 * size
    return (at_rest.mean(0) > _MIN_REST_SHARE) & returns_quickly


def unit_vectors(values: np.ndarray) -> list[tuple[int, ...]]:
    """Find groups of columns of (M, D) values whose squares sum to 1 in every row.

    A group has two columns anywhere (cosine and sine of an angle), or three or four neighbours (a direction, a
    quaternion). Nearly constant columns, which would fit many others, and one-hots are left out. Groups share no
    column.
    """
    squares = np.square(values, dtype=np.float64)
    moving = (squares.max(0) <= 1.0 + _ROUNDING) & (np.ptp(squares, axis=0) > _MIN_RANGE_OF_SQUARES)
    sample = squares[:_SAMPLE_ROWS]
    candidates: list[tuple[int, ...]] = []
    for i in np.flatnonzero(moving):
        miss = np.abs(sample[:, i, None] + sample[:, i + 1 :] - 1.0).max(0, initial=0.0)
        partners = np.flatnonzero((miss <= _ROUNDING) & moving[i + 1 :])
        candidates += [(int(i), int(i + 1 + j)) for j in partners]
    candidates += [
        tuple(range(i, i + n))
        for n in (3, 4)
        for i in range(values.shape[1] - n + 1)
        if moving[i : i + n].all()
    ]
    found: list[tuple[int, ...]] = []
    used: set[int] = set()
    for group in candidates:
        columns = list(group)
        sums = squares[:, columns].sum(1)
        one_hot = np.isin(np.abs(values[:, columns]), (0.0, 1.0)).all()
        if used.isdisjoint(group) and np.abs(sums - 1.0).max() <= _ROUNDING and not one_hot:
            found.append(group)
            used.update(group)
    return found
