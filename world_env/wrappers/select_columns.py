"""Wrapper that selects columns of vector observations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
from gymnasium import spaces

from world_env.errors import InvalidOptionError, UnsupportedSpaceError


class SelectColumns(
    gymnasium.ObservationWrapper[Any, Any, Any], gymnasium.utils.RecordConstructorArgs
):
    """Select columns of a vector observation, for example to remove velocities from it.

    columns: indices of the selected columns, in the order of the new observation.
    Raises UnsupportedSpaceError if the observation is not a vector, InvalidOptionError for an invalid index.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], columns: Sequence[int]) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, columns=columns)
        gymnasium.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise UnsupportedSpaceError(
                f"observation space {space} has no columns: expected a Box of shape (n,)"
            )
        known = range(space.shape[0])
        if not columns or len(set(columns)) < len(columns) or not set(columns) <= set(known):
            raise InvalidOptionError(
                f"columns is {columns}, expected at least one of 0..{len(known) - 1}, each once"
            )
        self._columns = list(columns)
        self.observation_space = spaces.Box(
            space.low[self._columns], space.high[self._columns], dtype=space.dtype.type
        )

    def observation(self, observation: Any) -> Any:
        """Return the selected columns."""
        return observation[self._columns]
