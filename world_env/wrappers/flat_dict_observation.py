"""Wrapper that turns Tuple and nested Dict observations into one Dict with flat keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
from gymnasium import spaces

from world_env.errors import InvalidOptionError, UnsupportedSpaceError
from world_env.types import OBSERVATION

SEPARATOR = "/"
"""Separator of the keys of nested observations."""


class FlatDictObservation(
    gymnasium.ObservationWrapper[Any, Any, Any], gymnasium.utils.RecordConstructorArgs
):
    """Turn Tuple and nested Dict observations into one Dict with flat keys.

    Keys are joined by "/", and the parts of a Tuple have the keys "0", "1", ...: Dict(inner=Dict(x=..., y=...)) has the
    keys "inner/x" and "inner/y". Values and spaces of the parts are unchanged. Real environments of this package are
    wrapped so by themselves (`with_flat_keys`): a policy receives the same flat Dict in the twin and in reality.
    Raises UnsupportedSpaceError for other spaces, for spaces without parts, and if two parts have the same flat key.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        gymnasium.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        if not isinstance(space, spaces.Dict | spaces.Tuple):
            raise UnsupportedSpaceError(
                f"observation space {space!s:.200} has no parts: expected a Tuple or a Dict"
            )
        flat: dict[str, spaces.Space[Any]] = {}
        for key, part in _parts(space):
            if key in flat:
                raise UnsupportedSpaceError(
                    f"two parts of the observation have the flat key {key!r}: rename one of them, because nested keys "
                    f"are joined by {SEPARATOR!r}"
                )
            flat[key] = part
        if not flat:
            raise UnsupportedSpaceError(
                f"observation space {space} has no parts: expected at least one"
            )
        # Pairs keep the order of the parts; a plain dict would be sorted.
        self.observation_space = spaces.Dict(list(flat.items()))

    def observation(self, observation: Any) -> dict[str, Any]:
        """Return the parts of an observation by their flat keys."""
        return dict(_values(self.env.observation_space, observation))


def parts_with(space: spaces.Space[Any], key: str) -> dict[str, spaces.Space[Any]]:
    """Return the parts of an observation space by key; "observation" is the key of a space that is not a Dict.

    Raises InvalidOptionError unless `key` is among them.
    """
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {OBSERVATION: space}
    if key not in parts:
        raise InvalidOptionError(
            f"key is {key!r}, expected a key of the observation: {list(parts)}"
        )
    return parts


def with_flat_keys(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Wrap an environment with Tuple or nested Dict observations in `FlatDictObservation`; return others unchanged."""
    space = env.observation_space
    nested = isinstance(space, spaces.Tuple) or (
        isinstance(space, spaces.Dict)
        and any(isinstance(part, spaces.Dict | spaces.Tuple) for part in space.spaces.values())
    )
    return FlatDictObservation(env) if nested else env


def _children(space: spaces.Space[Any]) -> list[tuple[Any, spaces.Space[Any]]] | None:
    """(key or index, space) of the parts of a Dict or Tuple; None for other spaces."""
    if isinstance(space, spaces.Dict):
        return list(space.spaces.items())
    return list(enumerate(space.spaces)) if isinstance(space, spaces.Tuple) else None


def _parts(space: spaces.Space[Any], path: str = "") -> Iterator[tuple[str, spaces.Space[Any]]]:
    """(flat key, space) of every part that has no parts itself."""
    children = _children(space)
    if children is None:
        yield path, space
    for key, part in children or ():
        yield from _parts(part, f"{path}{SEPARATOR}{key}" if path else str(key))


def _values(space: spaces.Space[Any], value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(flat key, value) of every part of an observation, as `_parts`."""
    children = _children(space)
    if children is None:
        yield path, value
    for key, part in children or ():
        yield from _values(part, value[key], f"{path}{SEPARATOR}{key}" if path else str(key))
