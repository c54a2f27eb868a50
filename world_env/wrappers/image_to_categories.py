"""Wrapper that turns grids of symbols into categories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from world_env.errors import InvalidObservationError, InvalidOptionError, UnsupportedSpaceError
from world_env.types import OBSERVATION
from world_env.wrappers.flat_dict_observation import parts_with, with_flat_keys


class ImageToCategories(
    gymnasium.ObservationWrapper[Any, Any, Any], gymnasium.utils.RecordConstructorArgs
):
    """Turn an integer grid of symbols, which is declared as an image, into categories.

    Grid worlds return small arrays of symbols: 2 is a wall and 8 is a goal, with no order between them. The new space
    is MultiDiscrete, with one component per cell and channel in the order of the array.

    categories: number of categories, or one for each channel (last axis). Values are in [0, categories).
    key: key of the grid in a Dict observation; of nested observations the flat key (`FlatDictObservation`).
    Example, for the 7 x 7 x 3 grids of MiniGrid with 11 objects, 6 colours and 4 states: categories=[11, 6, 4].
    Raises UnsupportedSpaceError if the space is not an integer Box, InvalidOptionError for an unknown key or wrong
    numbers of categories, and InvalidObservationError for a value outside of them.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        categories: int | Sequence[int],
        key: str = OBSERVATION,
    ) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, categories=categories, key=key)
        gymnasium.ObservationWrapper.__init__(self, with_flat_keys(env))
        space = self.env.observation_space
        parts = parts_with(space, key)
        part = parts[key]
        if not isinstance(part, spaces.Box) or part.dtype.kind not in "iu" or not part.shape:
            raise UnsupportedSpaceError(
                f"observation {key!r} is {part!s:.200}, expected a Box of integers: a grid of symbols"
            )
        numbers = np.asarray(categories)
        if numbers.dtype.kind not in "iu" or numbers.min(initial=1) < 1:
            raise InvalidOptionError(f"categories is {categories!r}, expected integers >= 1")
        if numbers.ndim > 1 or (numbers.ndim == 1 and len(numbers) != part.shape[-1]):
            raise InvalidOptionError(
                f"categories is {categories!r}, expected one number, or one for each of the {part.shape[-1]} channels "
                f"of observation {key!r} {part.shape}"
            )
        self._key, self._keyed = key, isinstance(space, spaces.Dict)
        self._sizes = np.broadcast_to(numbers, part.shape).reshape(-1).astype(np.int64)
        parts[key] = spaces.MultiDiscrete(self._sizes)
        self.observation_space = spaces.Dict(list(parts.items())) if self._keyed else parts[key]

    def observation(self, observation: Any) -> Any:
        """Return the observation with the categories in place of the grid."""
        grid = observation[self._key] if self._keyed else observation
        values = np.asarray(grid).reshape(-1).astype(np.int64)
        wrong = np.flatnonzero((values < 0) | (values >= self._sizes))
        if len(wrong):
            cell = np.unravel_index(wrong[0], np.shape(grid))
            raise InvalidObservationError(
                f"observation {self._key!r} is {values[wrong[0]]} at {tuple(map(int, cell))}, expected an integer in "
                f"[0, {self._sizes[wrong[0]] - 1}]: correct the number of categories of ImageToCategories"
            )
        return {**observation, self._key: values} if self._keyed else values
