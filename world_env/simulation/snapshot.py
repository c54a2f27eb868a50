"""Snapshots of environments, and the seeds, masks and indices that select environments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from world_env.batch import State
from world_env.errors import InvalidOptionError

Seeds = int | Sequence[int | None]
"""One seed s (environment i gets s + i), or one per environment; None keeps that environment's seed."""


@dataclass(frozen=True)
class Snapshot:
    """Complete state of B environments. After a restore, the same actions give bit-identical results."""

    state: State
    """Model state, name -> (B, ...), without entries that the model can rebuild."""
    seeds: Tensor
    """(B,) int64, seeds of the noise streams."""
    draws: Tensor
    """(B,) int64, number of draws from each noise stream."""
    counters: np.ndarray
    """(4, B) int64: steps since the real initial state, steps since the reset, episode number, environment seed."""
    finished: np.ndarray
    """(B,) bool, True if the episode is over."""
    conditioning: dict[str, Tensor] = field(default_factory=dict)
    """name -> (B, ...), conditioning given for this and the next episodes; NaN where none is given."""

    def __len__(self) -> int:
        return len(self.finished)


def row_seeds(seed: Seeds, rows: int) -> Tensor:
    """Return (B,) int64 seeds: `seed` + i, or those given (None counts as 0).

    Raises InvalidOptionError unless a list has one seed per environment.
    """
    if isinstance(seed, Sequence | np.ndarray):
        if len(seed) != rows:
            raise InvalidOptionError(
                f"seed has {len(seed)} seeds for {rows} environments: pass one seed per environment, or one integer"
            )
        values = [0 if one is None else int(one) for one in seed]
    else:
        values = [int(seed) + i for i in range(rows)]
    return torch.tensor([value % (1 << 63) for value in values], dtype=torch.int64, device="cpu")


def reseeded(
    seed: Seeds | None, mask: np.ndarray, seeds: Tensor, episodes: Tensor
) -> tuple[Tensor, Tensor]:
    """Return new (environment seeds, episode numbers), (B,) each, with `seed` given to the environments in `mask`."""
    if seed is None:
        return seeds, episodes.clone()
    fresh = row_seeds(seed, len(mask))
    given = np.ones(len(mask), bool)
    if isinstance(seed, Sequence | np.ndarray):
        given = np.array([one is not None for one in seed])
    reached = torch.from_numpy(mask & given)
    none = torch.zeros_like(fresh)
    return torch.where(reached, fresh, seeds), torch.where(reached, none, episodes)


def as_mask(rows: Any, count: int) -> np.ndarray:
    """Return a (count,) bool mask; None: all environments. Raises InvalidOptionError."""
    if rows is None:
        return np.ones(count, bool)
    mask = np.asarray(rows)
    if mask.dtype != bool or mask.shape != (count,):
        raise InvalidOptionError(
            f"rows is {mask.dtype} of shape {mask.shape}, expected a bool mask of shape ({count},), one entry "
            f"per environment"
        )
    return mask


def as_index(rows: Any, count: int) -> np.ndarray:
    """Return (n,) indices from a bool mask or from indices; None: all environments. Raises InvalidOptionError."""
    if rows is None:
        return np.arange(count)
    array = np.atleast_1d(np.asarray(rows))
    if array.dtype == bool:
        return np.flatnonzero(as_mask(array, count))
    whole = np.issubdtype(array.dtype, np.integer) and array.ndim == 1
    if not whole or ((array < 0) | (array >= count)).any():
        raise InvalidOptionError(
            f"rows is {array[:8].tolist()}, expected a bool mask or environment indices in [0, {count - 1}]"
        )
    return array


def both(mask: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    """Return the intersection of two masks; None means all environments."""
    if mask is None or other is None:
        return other if mask is None else mask
    return mask & other
