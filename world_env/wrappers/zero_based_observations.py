"""Wrapper that shifts discrete observations to start at zero."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from world_env.errors import UnsupportedSpaceError
from world_env.wrappers.flat_dict_observation import with_flat_keys


class ZeroBasedObservations(
    gymnasium.ObservationWrapper[Any, Any, Any], gymnasium.utils.RecordConstructorArgs
):
    """Shift Discrete and MultiDiscrete observations to start at 0, as Stable-Baselines3 expects, which ignores `start`.

    All keys of a Dict are shifted; those of nested spaces become flat keys, as in `FlatDictObservation`.
    Raises UnsupportedSpaceError if no observation is discrete.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        gymnasium.ObservationWrapper.__init__(self, with_flat_keys(env))
        space = self.env.observation_space
        self._keyed = isinstance(space, spaces.Dict)
        parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
        self._starts = {
            key: part.start
            for key, part in parts.items()
            if isinstance(part, spaces.Discrete | spaces.MultiDiscrete)
        }
        if not self._starts:
            raise UnsupportedSpaceError(
                f"observation space {space!s:.200} has no part to shift: expected Discrete or MultiDiscrete"
            )
        parts |= {key: from_zero(parts[key]) for key in self._starts}
        self.observation_space = spaces.Dict(list(parts.items())) if self._keyed else parts[""]

    def observation(self, observation: Any) -> Any:
        """Return the observation with categories that start at 0."""
        if not self._keyed:
            return np.asarray(observation) - self._starts[""]
        shifted = {key: np.asarray(observation[key]) - start for key, start in self._starts.items()}
        return {**observation, **shifted}


def from_zero(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """Return a Discrete or MultiDiscrete space of the same size and dtype that starts at 0."""
    kind: Any = np.dtype(space.dtype).type
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n), dtype=kind)
    assert isinstance(space, spaces.MultiDiscrete)
    return spaces.MultiDiscrete(space.nvec, dtype=kind)
