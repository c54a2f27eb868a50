"""Wrapper that leaves out keys of Dict observations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
from gymnasium import spaces

from world_env.errors import InvalidOptionError, UnsupportedSpaceError
from world_env.wrappers.flat_dict_observation import SEPARATOR, with_flat_keys


class DropKeys(gymnasium.ObservationWrapper[Any, Any, Any], gymnasium.utils.RecordConstructorArgs):
    """Leave out keys of a Dict observation, for example a text that is the same in every episode.

    keys: the keys to leave out. Nested observations have flat keys (`FlatDictObservation`); "inner" leaves out all keys
        that start with "inner/".
    Raises UnsupportedSpaceError if the observation has no keys, InvalidOptionError for an unknown key, or if none is
    left.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], keys: Sequence[str]) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, keys=keys)
        gymnasium.ObservationWrapper.__init__(self, with_flat_keys(env))
        space = self.env.observation_space
        if not isinstance(space, spaces.Dict):
            raise UnsupportedSpaceError(
                f"observation space {space!s:.200} has no keys: expected a Dict or a Tuple"
            )
        keys = [keys] if isinstance(keys, str) else list(keys)
        dropped: set[str] = set()
        for key in keys:
            found = {each for each in space if each == key or each.startswith(f"{key}{SEPARATOR}")}
            if not found:
                raise InvalidOptionError(
                    f"keys has {key!r}, expected keys of the observation: {list(space)}"
                )
            dropped |= found
        kept = [(key, part) for key, part in space.spaces.items() if key not in dropped]
        if not kept:
            raise InvalidOptionError(f"keys is {keys}, which leaves no key of {list(space)}")
        self.observation_space = spaces.Dict(kept)

    def observation(self, observation: Any) -> dict[str, Any]:
        """Return the observation without the keys."""
        return {key: observation[key] for key in self.observation_space.spaces}  # type: ignore[attr-defined]
