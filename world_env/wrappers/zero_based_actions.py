"""Wrapper for action spaces that do not start at zero."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium import spaces

from world_env.errors import UnsupportedSpaceError


class ZeroBasedActions(
    gymnasium.ActionWrapper[Any, Any, Any], gymnasium.utils.RecordConstructorArgs
):
    """Discrete and MultiDiscrete actions counted from 0, as Stable-Baselines3 counts them whatever `start` says.

    Raises UnsupportedSpaceError for other action spaces.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        gymnasium.ActionWrapper.__init__(self, env)
        space = env.action_space
        if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            raise UnsupportedSpaceError(
                f"{space} has no first action to count from: expected Discrete or MultiDiscrete"
            )
        self._start = space.start
        self.action_space = (
            spaces.Discrete(int(space.n), dtype=space.dtype.type)
            if isinstance(space, spaces.Discrete)
            else spaces.MultiDiscrete(space.nvec, dtype=space.dtype.type)
        )

    def action(self, action: Any) -> Any:
        """The wrapped environment's own number of an action."""
        return action + self._start
