"""Naming rows: seeds, masks, indices, and the snapshots that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from world_env.batch import State
from world_env.errors import InvalidOptionError

Seeds = int | Sequence[int | None]
"""One seed s for all rows (row i gets s + i), or one for each row, None where it keeps its own."""


@dataclass(frozen=True)
class Snapshot:
    """All there is to some rows; restoring it replays the same future bit by bit.

    state: name -> (B, ...). seeds, draws: (B,) int64 of the noise. counters: (4, B) int64: elapsed, age, episode and
    row seed. finished: (B,) bool.
    """

    state: State
    seeds: Tensor
    draws: Tensor
    counters: np.ndarray
    finished: np.ndarray

    def __len__(self) -> int:
        return len(self.finished)


def row_seeds(seed: Seeds, rows: int) -> Tensor:
    """(B,) int64: `seed` + i, or B given seeds (None counts as 0). Raises InvalidOptionError for another number."""
    if isinstance(seed, Sequence | np.ndarray):
        if len(seed) != rows:
            raise InvalidOptionError(
                f"{len(seed)} seeds were given for {rows} rows: pass one for each, or one number"
            )
        values = [0 if one is None else int(one) for one in seed]
    else:
        values = [int(seed) + i for i in range(rows)]
    return torch.tensor([value % (1 << 63) for value in values], dtype=torch.int64)


def reseeded(
    seed: Seeds | None, mask: np.ndarray, seeds: Tensor, episodes: Tensor
) -> tuple[Tensor, Tensor]:
    """(row seeds, episode numbers), (B,) new tensors, after `seed` reached the rows of `mask`."""
    if seed is None:
        return seeds, episodes.clone()
    fresh = row_seeds(seed, len(mask))
    known = np.ones(len(mask), bool)
    if isinstance(seed, Sequence | np.ndarray):
        known = np.array([one is not None for one in seed])
    reached = torch.as_tensor(mask & known)
    none = torch.zeros_like(fresh)
    return torch.where(reached, fresh, seeds), torch.where(reached, none, episodes)


def as_mask(rows: Any, count: int) -> np.ndarray:
    """A (count,) bool mask; None: all rows. Raises InvalidOptionError."""
    if rows is None:
        return np.ones(count, bool)
    mask = np.asarray(rows)
    if mask.dtype != bool or mask.shape != (count,):
        raise InvalidOptionError(
            f"rows are chosen by a bool mask of shape ({count},), got {mask.dtype} {mask.shape}"
        )
    return mask


def as_index(rows: Any, count: int) -> np.ndarray:
    """(n,) indices of a bool mask or of indices; None: all rows. Raises InvalidOptionError."""
    if rows is None:
        return np.arange(count)
    array = np.atleast_1d(np.asarray(rows))
    if array.dtype == bool:
        return np.flatnonzero(as_mask(array, count))
    whole = np.issubdtype(array.dtype, np.integer) and array.ndim == 1
    if not whole or ((array < 0) | (array >= count)).any():
        raise InvalidOptionError(
            f"rows are a bool mask or indices in 0..{count - 1}, got {array[:8].tolist()}"
        )
    return array


def both(mask: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    """The rows of both masks, None for all."""
    if mask is None or other is None:
        return other if mask is None else mask
    return mask & other
