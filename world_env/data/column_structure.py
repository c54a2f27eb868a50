"""Structure of the columns of a data set: unit vectors, one-hots, and columns that return to a resting value."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_BLOCK_COLUMNS = 8
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


def column_blocks(size: int) -> Iterator[slice]:
    """Slices that cover `size` columns, a few at a time: float64 copies of one block take little memory.

    A block has one column only if there is no other: numpy sums a single column in another order.
    """
    blocks = -(-size // _BLOCK_COLUMNS)
    edges = [size * i // blocks for i in range(blocks + 1)]
    yield from map(slice, edges, edges[1:])


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
    found = np.zeros(values.shape[1], bool)
    for block in column_blocks(len(found)):
        away = values[:, block] - center[block]
        at_rest = np.abs(away) <= rounding[block]
        change, size = (
            np.square(part, dtype=np.float64).mean(0) for part in (changes[:, block], away)
        )
        returns_quickly = change > _MIN_CHANGE**2 * size
        found[block] = (at_rest.mean(0) > _MIN_REST_SHARE) & returns_quickly
    return found


def unit_vectors(values: np.ndarray) -> list[tuple[int, ...]]:
    """Find groups of columns of (M, D) values whose squares sum to 1 in every row.

    A group has two columns anywhere (cosine and sine of an angle), or three or four neighbours (a direction, a
    quaternion). Nearly constant columns, which would fit many others, and one-hots are left out. Groups share no
    column.
    """
    most = np.square(np.maximum(values.max(0), -values.min(0)), dtype=np.float64)
    least = np.array([np.abs(column).min() for column in values.T])
    moving = (most <= 1.0 + _ROUNDING) & (
        most - np.square(least, dtype=np.float64) > _MIN_RANGE_OF_SQUARES
    )
    sample = np.square(values[:_SAMPLE_ROWS], dtype=np.float64)
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
        sums = np.square(values[:, columns], dtype=np.float64).sum(1)
        one_hot = np.isin(np.abs(values[:, columns]), (0.0, 1.0)).all()
        if used.isdisjoint(group) and np.abs(sums - 1.0).max() <= _ROUNDING and not one_hot:
            found.append(group)
            used.update(group)
    return found


def one_hot_groups(values: np.ndarray, unit: np.ndarray) -> list[slice]:
    """Find groups of neighbouring columns of (M, D) values of which exactly one is 1 and all others are 0 in every row.

    FlattenObservation of Discrete spaces makes such columns. At least two columns of a group change. Of two groups that
    follow each other, the first ends as soon as its columns sum to 1 in every row. Columns that are always 0 are
    categories that the data do not show: they belong to the group around them, after them, or before them.

    unit: (D,) bool, True for columns with the declared bounds [0, 1]. At the border of a group, columns that are always
        0 join it only if they are declared so: another column may become 2.
    """
    binary = ((values == 0.0) | (values == 1.0)).all(0)
    seen = binary & (values == 1.0).any(0)
    stops = _stops(values, binary)
    found: list[slice] = []
    column, last = 0, 0
    while column < len(seen):
        stop = int(stops[column]) if seen[column] else 0
        if seen[column:stop].sum() < 2 or not binary[column:stop].all():
            column += 1
            continue
        start, empty = column, binary & ~seen & unit
        while start > last and empty[start - 1]:
            start -= 1
        while stop < len(seen) and empty[stop]:
            stop += 1
        found.append(slice(start, stop))
        column = last = stop
    return found


def _stops(values: np.ndarray, binary: np.ndarray) -> np.ndarray:
    """For each column the end of the shortest one-hot that starts there, (D,) int64; 0 where there is none."""
    rows, size = values.shape
    # Columns of the first and of the second 1 of each row, from the current column on.
    first, second = np.full(rows, size), np.full(rows, size)
    stops = np.zeros(size, np.int64)
    for column in reversed(range(size)):
        if not binary[column]:
            first[:], second[:] = size, size
            continue
        here = values[:, column] == 1.0
        second = np.where(here, first, second)
        first = np.where(here, column, first)
        stop = int(first.max()) + 1
        if stop <= min(size, int(second.min())):
            stops[column] = stop
    return stops
