"""Wrapper that shifts discrete actions to start at zero."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium import spaces

from world_env.errors import UnsupportedSpaceError
from world_env.wrappers.zero_based_observations import from_zero


class ZeroBasedActions(
    gymnasium.ActionWrapper[Any, Any, Any], gymnasium.utils.RecordConstructorArgs
):
    """Shift Discrete and MultiDiscrete actions to start at 0. Stable-Baselines3 ignores `start` and needs this wrapper.

    Raises UnsupportedSpaceError for other action spaces.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        gymnasium.ActionWrapper.__init__(self, env)
        space = env.action_space
        if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            raise UnsupportedSpaceError(
                f"action space {space} is not supported: expected Discrete or MultiDiscrete"
            )
        self._start = space.start
        self.action_space = from_zero(space)

    def action(self, action: Any) -> Any:
        """Convert an action to that of the wrapped environment."""
        return action + self._start
