"""Supported Gymnasium spaces: their encoded shapes and their JSON form."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from world_env.errors import TwinFormatError, UnsupportedSpaceError
from world_env.types import JSON, OBSERVATION

_MIN_PICTURE_SIDE = 16
"""Side in pixels below which an image is more likely a grid of symbols."""


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
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.n)}
    if isinstance(space, spaces.Dict):
        return {
            "type": "Dict",
            "spaces": {key: space_to_json(value) for key, value in space.spaces.items()},
        }
    raise UnsupportedSpaceError(
        f"{type(space).__name__} space {space} is not supported: expected Box, Discrete, a flat MultiDiscrete, "
        "MultiBinary, or a Dict of these. See the wrappers in world_env.wrappers."
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
        if kind == "MultiBinary":
            return spaces.MultiBinary(tree["n"])
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
        f"unknown space type {kind!r}: expected Box, Discrete, MultiDiscrete, MultiBinary or Dict"
    )


def _bound_to_json(bound: np.ndarray) -> Any:
    """One number if all are equal (images), else a flat list. Infinities become strings: strict JSON has none."""
    first = bound.reshape(-1)[:1]
    if bound.size and (bound == first).all():
        return _number_to_json(first[0])
    return [_number_to_json(value) for value in bound.reshape(-1)]


def _bound_from_json(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    numbers = value if isinstance(value, list) else [value]
    if dtype.kind in "iu":
        # As integers: a float holds them exactly only up to 2**53.
        array = np.array([int(number) for number in numbers], dtype)
    else:
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
    if not parts:
        raise UnsupportedSpaceError(
            "the observation space is a Dict without keys: expected at least one key"
        )
    for key, part in parts.items():
        if not (isinstance(part, spaces.Box) or _is_categorical(part)):
            raise UnsupportedSpaceError(
                f"observation {key!r} is a {type(part).__name__} space ({part!s:.200}), which is not supported: "
                "expected Box, Discrete, flat MultiDiscrete, MultiBinary, or a Dict of these. "
                + _advice(key, part, isinstance(space, spaces.Dict))
            )
    return parts


def _is_categorical(space: spaces.Space[Any]) -> bool:
    """Whether the space is Discrete, a flat MultiDiscrete or MultiBinary."""
    return isinstance(space, spaces.Discrete | spaces.MultiBinary) or (
        isinstance(space, spaces.MultiDiscrete) and len(space.shape or ()) <= 1
    )


def _advice(key: str, space: spaces.Space[Any], has_keys: bool) -> str:
    """What to do with an observation of a space that is not supported. has_keys: it is a part of a Dict."""
    if is_text(space):
        text = {"key": key, "vocabulary": ["first text", "second text"]}
        drop = {"keys": [key]}
        category = (
            "Use its texts as categories, with all texts that can occur: "
            f"WrapperConfig('world_env.wrappers:TextToCategory', {text})"
        )
        if not has_keys:
            return f"{category}. {wrapper_in_a_file('world_env.wrappers:TextToCategory', text)}"
        return (
            f"{category}; or leave it out: WrapperConfig('world_env.wrappers:DropKeys', {drop}). "
            + wrapper_in_a_file("world_env.wrappers:DropKeys", drop)
        )
    if isinstance(space, spaces.Tuple | spaces.Dict):
        return "The wrapper world_env.wrappers:FlatDictObservation makes one Dict with flat keys of it."
    if isinstance(space, spaces.MultiDiscrete):
        return "Flatten it with a gymnasium.wrappers.TransformObservation."
    size = "Its values have no fixed size: write a gymnasium.ObservationWrapper that returns arrays of one shape"
    if not has_keys:
        return f"{size}."
    return (
        f"{size}, or leave it out: WrapperConfig('world_env.wrappers:DropKeys', {{'keys': [{key!r}]}}). "
        + wrapper_in_a_file("world_env.wrappers:DropKeys", {"keys": [key]})
    )


def wrapper_in_a_file(name: str, kwargs: Mapping[str, Any] | None = None) -> str:
    """One sentence for messages: how the command line takes a wrapper with arguments.

    kwargs: texts, numbers and lists of these; None: an ellipsis.
    """
    arguments = (
        "..."
        if kwargs is None
        else ", ".join(f"{key} = {json.dumps(value)}" for key, value in kwargs.items())
    )
    return (
        "On the command line: --config FILE.toml in place of --wrapper, with the line [real] and a line of all "
        "wrappers, innermost first: "
        f'wrappers = [{{name = "{name}", kwargs = {{{arguments}}}}}]'
    )


def symbols_advice(key: str, symbols: int = 16) -> str:
    """Advice for an image whose numbers may name things.

    symbols: number of categories in the example.
    """
    name, kwargs = (
        "world_env.wrappers:ImageToCategories",
        {"key": key, "categories": symbols},
    )
    return (
        "If its numbers name things in a grid world, make categories of them, with the number of symbols or a list of "
        f"one number per channel: WrapperConfig('{name}', {kwargs}). {wrapper_in_a_file(name, kwargs)}"
    )


def category_sizes(space: spaces.Space[Any]) -> list[int]:
    """Number of categories of each component of a space: Discrete, MultiDiscrete, MultiBinary; others have none."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(size) for size in space.nvec.reshape(-1)]
    if isinstance(space, spaces.MultiBinary):
        return [2] * math.prod(space.shape)
    return []


def categories(space: spaces.Space[Any]) -> tuple[np.ndarray, np.ndarray]:
    """(sizes, starts) of a Discrete, MultiDiscrete or MultiBinary space, one entry per component."""
    sizes = np.array(category_sizes(space))
    return sizes, np.zeros_like(sizes) + getattr(space, "start", 0)


def one_row(observation: Any) -> Any:
    """Add a batch dimension of size 1 to an observation or to a dict of observations."""
    if isinstance(observation, dict):
        return {key: one_row(value) for key, value in observation.items()}
    return np.asarray(observation)[None]


def row_of(observation: Any, row: int | np.ndarray) -> Any:
    """Index batched observations (B, ...), or a dict or tuple of them, by one row number or an array of row numbers."""
    if isinstance(observation, dict):
        return {key: row_of(value, row) for key, value in observation.items()}
    if isinstance(observation, tuple):
        return tuple(row_of(value, row) for value in observation)
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


def is_tiny_image(space: spaces.Space[Any]) -> bool:
    """Whether the space holds images with a side of fewer than 16 pixels: more likely symbols than a picture."""
    if not is_image(space):
        return False
    _, height, width = encoded_shape(space)
    return min(height, width) < _MIN_PICTURE_SIDE


def is_text(space: spaces.Space[Any]) -> bool:
    """Whether the space holds texts: Text, and spaces of other packages with the dtype str."""
    return space.dtype is not None and np.dtype(space.dtype).kind == "U"


def channels_first(space: spaces.Space[Any]) -> bool:
    """Return True if images are (C, H, W), as stacked frames are: the first axis is the shortest, the last one > 4."""
    shape = space.shape or ()
    return len(shape) == 3 and shape[0] < min(shape[1:]) and shape[2] > 4


def action_size(space: spaces.Space[Any]) -> int:
    """Size A of one encoded action. Raises UnsupportedSpaceError if actions of this space are not supported."""
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return int(np.prod(space.shape, dtype=int))
    if _is_categorical(space):
        return sum(category_sizes(space))
    advice = (
        "write a gymnasium.ActionWrapper with one Box or MultiDiscrete space, whose `action` method splits an action "
        "into its parts"
        if isinstance(space, spaces.Tuple | spaces.Dict)
        else "write a gymnasium.ActionWrapper with one of these spaces"
    )
    raise UnsupportedSpaceError(
        f"a {type(space).__name__} action space ({space!s:.200}) is not supported: expected a floating-point Box, "
        f"Discrete, a flat MultiDiscrete or MultiBinary. What to do: {advice}."
    )
