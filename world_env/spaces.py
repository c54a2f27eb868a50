"""Supported Gymnasium spaces: their encoded shapes and their JSON form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from world_env.errors import TwinFormatError, UnsupportedSpaceError
from world_env.types import JSON, OBSERVATION


def space_to_json(space: spaces.Space[Any]) -> JSON:
    """Convert a space to strict JSON. Raises UnsupportedSpaceError if twins do not support the space."""
    if isinstance(space, spaces.Box):
        return {
            "type": "Box",
            "shape": list(space.shape),
            "dtype": str(np.dtype(space.dtype)),
            "low": _bound_to_json(space.low),
            "high": _bound_to_json(space.high),
        }
    if isinstance(space, spaces.Discrete):
        return {
            "type": "Discrete",
            "n": int(space.n),
            "start": int(space.start),
            "dtype": str(np.dtype(space.dtype)),
        }
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return {
            "type": "MultiDiscrete",
            "nvec": space.nvec.tolist(),
            "start": space.start.tolist(),
            "dtype": str(np.dtype(space.dtype)),
        }
    if isinstance(space, spaces.Dict):
        return {
            "type": "Dict",
            "spaces": {key: space_to_json(value) for key, value in space.spaces.items()},
        }
    raise UnsupportedSpaceError(
        f"{type(space).__name__} space {space} is not supported: expected Box, Discrete, a flat MultiDiscrete, "
        "or a Dict of these. Wrap the environment, for example with gymnasium's FlattenObservation."
    )


def space_from_json(tree: Any) -> spaces.Space[Any]:
    """Inverse of `space_to_json`. Raises TwinFormatError if the JSON does not describe a space."""
    try:
        kind = tree["type"]
        if kind == "Dict":
            # A list of pairs keeps the order of the keys; Dict would sort the keys of a plain dict, and a flattened
            # observation would change its layout.
            return spaces.Dict(
                [(key, space_from_json(value)) for key, value in tree["spaces"].items()]
            )
        dtype = np.dtype(tree["dtype"])
        if kind == "Box":
            shape = tuple(int(size) for size in tree["shape"])
            low, high = (_bound_from_json(tree[name], shape, dtype) for name in ("low", "high"))
            return spaces.Box(low, high, shape, dtype.type)
        if kind == "Discrete":
            return spaces.Discrete(tree["n"], start=tree["start"], dtype=dtype.type)
        if kind == "MultiDiscrete":
            return spaces.MultiDiscrete(tree["nvec"], dtype=dtype.type, start=tree["start"])
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise TwinFormatError(f"invalid space: {str(tree)[:200]} ({error})") from error
    raise TwinFormatError(
        f"unknown space type {kind!r}: expected Box, Discrete, MultiDiscrete or Dict"
    )


def _bound_to_json(bound: np.ndarray) -> Any:
    """One number if all are equal (images), else a flat list. Infinities become strings: strict JSON has none."""
    first = bound.reshape(-1)[:1]
    if bound.size and (bound == first).all():
        return _number_to_json(first[0])
    return [_number_to_json(value) for value in bound.reshape(-1)]


def _bound_from_json(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    numbers = value if isinstance(value, list) else [value]
    array = np.array([float(number) for number in numbers], dtype=np.float64).astype(dtype)
    return np.full(shape, array[0], dtype) if len(numbers) == 1 else array.reshape(shape)


def _number_to_json(value: Any) -> float | int | str:
    number = value.item()
    return number if math.isfinite(number) else str(number)


def observation_spaces(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    """Map each observation key to its space, sorted by key; a space that is not a Dict has one key, `OBSERVATION`.

    The order is fixed because models lay out their weights in it, and equal Dict spaces may list their keys in any
    order.
    Raises UnsupportedSpaceError, which names the key.
    """
    parts = (
        dict(sorted(space.spaces.items()))
        if isinstance(space, spaces.Dict)
        else {OBSERVATION: space}
    )
    for key, part in parts.items():
        flat = (
            isinstance(part, spaces.Discrete | spaces.MultiDiscrete) and len(part.shape or ()) <= 1
        )
        if not (isinstance(part, spaces.Box) or flat):
            raise UnsupportedSpaceError(
                f"observation {key!r} is a {type(part).__name__} space ({part}), which is not supported: expected "
                "Box, Discrete, flat MultiDiscrete, or one Dict of these. "
                "gymnasium.wrappers.FlattenObservation converts most other spaces to a Box."
            )
    return parts


def one_row(observation: Any) -> Any:
    """Add a batch dimension of size 1 to an observation or to a dict of observations."""
    if isinstance(observation, dict):
        return {key: one_row(value) for key, value in observation.items()}
    return np.asarray(observation)[None]


def row_of(observation: Any, row: int | np.ndarray) -> Any:
    """Index batched observations (B, ...), or a dict of them, by one row number or an array of row numbers."""
    if isinstance(observation, dict):
        return {key: row_of(value, row) for key, value in observation.items()}
    return observation[row]


def stacked(observations: Sequence[Any]) -> Any:
    """Stack N arrays to (N, ...), or N dicts of arrays to a dict of stacked arrays."""
    if isinstance(observations[0], dict):
        return {key: stacked([part[key] for part in observations]) for key in observations[0]}
    return np.stack(observations)


def copied(observation: Any) -> Any:
    """Copy environment arrays, or a dict of them."""
    if isinstance(observation, dict):
        return {key: copied(value) for key, value in observation.items()}
    return np.array(observation)


def encoded_shape(space: spaces.Space[Any]) -> tuple[int, ...]:
    """Shape O of one encoded observation of this space."""
    if isinstance(space, spaces.Box):
        if is_image(space):
            if channels_first(space):
                return tuple(space.shape)
            height, width, *channels = space.shape
            return (channels[0] if channels else 1, height, width)
        return tuple(space.shape) or (1,)
    return (action_size(space),)


def is_image(space: spaces.Space[Any]) -> bool:
    """Return True if the space holds images: uint8 from 0 to 255 with a height and a width. Other boxes are vectors."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return False
    sides = space.shape[1:] if channels_first(space) else space.shape[:2]
    flat = len(space.shape) not in (2, 3) or min(sides) < 2
    return not flat and bool((space.low == 0).all() and (space.high == 255).all())


def channels_first(space: spaces.Space[Any]) -> bool:
    """Return True if images are (C, H, W), as stacked frames are: the first axis is the shortest, the last one > 4."""
    shape = space.shape or ()
    return len(shape) == 3 and shape[0] < min(shape[1:]) and shape[2] > 4


def action_size(space: spaces.Space[Any]) -> int:
    """Size A of one encoded action. Raises UnsupportedSpaceError if actions of this space are not supported."""
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return int(np.prod(space.shape, dtype=int))
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return int(space.nvec.sum())
    raise UnsupportedSpaceError(
        f"a {type(space).__name__} action space ({space}) is not supported: expected a floating-point Box, Discrete "
        "or a flat MultiDiscrete"
    )
