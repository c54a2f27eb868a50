"""Wrapper that plays several actions per step."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces

from world_env.errors import InvalidActionError, InvalidOptionError, UnsupportedSpaceError


class ActionChunk(gymnasium.Wrapper[Any, Any, Any, Any], gymnasium.utils.RecordConstructorArgs):
    """Play chunks of `n` actions: one action of this wrapper holds `n` actions of the wrapped environment.

    The action space Box (*A) becomes Box (n, *A), Discrete becomes MultiDiscrete (n,). A chunk stops at the end of the
    episode. The reward is the sum over the chunk; observation and info are those of the last step;
    `info["chunk_steps"]` is the number of steps taken.
    Raises InvalidOptionError for n < 1, UnsupportedSpaceError for other action spaces.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], n: int) -> None:
        if n < 1:
            raise InvalidOptionError(f"n is {n}, expected at least 1 action per chunk")
        gymnasium.utils.RecordConstructorArgs.__init__(self, n=n)
        gymnasium.Wrapper.__init__(self, env)
        self.n = n
        self._one = env.action_space
        self.action_space = _chunked(self._one, n)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Play one chunk, up to `n` steps. Raises InvalidActionError if the shape of the chunk is wrong."""
        chunk = np.asarray(action)
        if chunk.shape != self.action_space.shape:
            raise InvalidActionError(
                f"action has the shape {chunk.shape}, expected {self.action_space.shape}: a chunk of {self.n} actions"
            )
        total, steps = 0.0, 0
        for one in chunk:
            if isinstance(self._one, spaces.Discrete):
                one = self._one.dtype.type(int(one))
            observation, reward, terminated, truncated, info = self.env.step(one)
            total, steps = total + float(reward), steps + 1
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, {**info, "chunk_steps": steps}


def _chunked(space: spaces.Space[Any], n: int) -> spaces.Space[Any]:
    if isinstance(space, spaces.Box):
        low, high = (np.repeat(bound[None], n, axis=0) for bound in (space.low, space.high))
        return spaces.Box(low, high, dtype=space.dtype.type)
    if isinstance(space, spaces.Discrete):
        return spaces.MultiDiscrete(
            np.full(n, space.n), dtype=space.dtype.type, start=np.full(n, space.start)
        )
    raise UnsupportedSpaceError(
        f"chunks of {space} actions are not supported: expected a Box or Discrete action space"
    )
