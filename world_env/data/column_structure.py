"""What ties the columns of a data set: numbers that belong together, and columns that go back to rest."""

from __future__ import annotations

import numpy as np

_ROUNDING = 1e-5
"""How far the squares of a unit vector's parts may miss 1."""
_MOSTLY = 0.5
"""Share of the rows in which a column must be at rest to count as one that rests."""
_SOON = 0.5
"""Typical change, in units of the typical distance from rest, beyond which a column does not stay away from it."""
_MOVING = 1e-3
"""Range of a column's squares below which it hardly moves."""
_GLANCE = 64
"""Rows that tell most groups of columns from unit vectors."""


def comes_back(
    values: np.ndarray, changes: np.ndarray, center: np.ndarray, rounding: np.ndarray
) -> np.ndarray:
    """(D,) bool: which columns of (M, D) rest at their center, leave it now and then, and are soon there again.

    changes: (N, D) from one row to the next. rounding: (D,) how far from the center is still at rest.

    Forces of contact are such. A network that predicts their changes lets them creep away from rest, where no data
    says that they must go back; a flag, which stays where it was put, is not one of them.
    """
    away = values - center
    rests = np.abs(away) <= rounding
    moves, size = (np.square(part, dtype=np.float64).mean(0) for part in (changes, away))
    soon = moves > _SOON**2 * size
    return (rests.mean(0) > _MOSTLY) & soon


def unit_vectors(values: np.ndarray) -> list[tuple[int, ...]]:
    """Groups of columns of (M, D) whose squares sum to 1 in every row; no column is in two groups.

    Two columns anywhere (cosine and sine of an angle), three or four neighbours (a direction, a quaternion). Columns
    that hardly move, which would fit many others, are none, nor are one-hots.
    """
    squares = np.square(values, dtype=np.float64)
    moving = (squares.max(0) <= 1.0 + _ROUNDING) & (np.ptp(squares, axis=0) > _MOVING)
    glance = squares[:_GLANCE]
    maybe: list[tuple[int, ...]] = []
    for i in np.flatnonzero(moving):
        miss = np.abs(glance[:, i, None] + glance[:, i + 1 :] - 1.0).max(0, initial=0.0)
        partners = np.flatnonzero((miss <= _ROUNDING) & moving[i + 1 :])
        maybe += [(int(i), int(i + 1 + j)) for j in partners]
    maybe += [
        tuple(range(i, i + n))
        for n in (3, 4)
        for i in range(values.shape[1] - n + 1)
        if moving[i : i + n].all()
    ]
    found: list[tuple[int, ...]] = []
    used: set[int] = set()
    for group in maybe:
        columns = list(group)
        sums = squares[:, columns].sum(1)
        whole = np.isin(np.abs(values[:, columns]), (0.0, 1.0)).all()
        if used.isdisjoint(group) and np.abs(sums - 1.0).max() <= _ROUNDING and not whole:
            found.append(group)
            used.update(group)
    return found
