"""Masks of valid actions, from a key of the observations."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from world_env.errors import SpaceMismatchError

DEFAULT_KEY = "action_mask"
"""Key of the observation that holds the mask, unless another is named."""


def check_mask_key(
    observation_space: spaces.Space[Any], action_space: spaces.Space[Any], key: str
) -> None:
    """Raise SpaceMismatchError unless `key` of the observations holds one number for each choice of an action."""
    parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {}
    if key not in parts:
        keys = f"has the keys {sorted(parts)}" if parts else f"is {observation_space}"
        raise SpaceMismatchError(
            f"action masks need a Dict observation with the key {key!r}, which holds 1 for every valid action and 0 "
            f"for the others, but the observation space {keys}: add the mask to the observations of the real "
            "environment, or name its key by action_mask_key"
        )
    choices = _choices(action_space)
    shape = parts[key].shape
    if choices is None or shape is None or int(np.prod(shape)) != choices:
        raise SpaceMismatchError(
            f"the key {key!r} has the shape {shape}, expected one number for each choice of the action space "
            f"{action_space}: "
            + ("masks need discrete actions" if choices is None else f"the shape ({choices},)")
        )


def masks_of(observations: Any, key: str) -> np.ndarray:
    """Return the masks (N, choices) bool of batched observations whose key was checked by `check_mask_key`."""
    values = np.asarray(observations[key])
    return np.asarray(values.reshape(len(values), -1) > 0.5)


def _choices(space: spaces.Space[Any]) -> int | None:
    """Number of choices of an action: those of all parts; None for actions that are not discrete."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    return 2 * int(np.prod(space.shape)) if isinstance(space, spaces.MultiBinary) else None
