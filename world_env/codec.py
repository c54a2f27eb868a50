"""Conversion of environment arrays to model tensors and back. No other module does this.

An encoded observation is a dict of float32 tensors. Box values are kept; models normalise them. uint8 images
(H, W, C), (H, W) or (C, H, W) become (C, H, W) in [0, 1]. Discrete and MultiDiscrete become one-hot vectors.
An encoded action is float32 (B, A). A Box is scaled to [-1, 1], Discrete becomes a one-hot vector, and MultiDiscrete
becomes concatenated one-hot vectors.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from world_env.batch import Observation
from world_env.data_range import DataRange, widened
from world_env.errors import InvalidActionError, InvalidObservationError
from world_env.spaces import (
    action_size,
    channels_first,
    encoded_shape,
    is_image,
    observation_spaces,
)
from world_env.spec import WorldSpec
from world_env.types import OBSERVATION


class Codec:
    """Encoder and decoder of observations and actions for one spec. Pure functions: only bounds and sizes are stored.

    spec: the spaces.
    ranges: range of the data. None (no data): observations are clipped to the space only, and an unbounded Box action
        has the bounds [-1, 1].
    """

    def __init__(self, spec: WorldSpec, ranges: DataRange | None = None) -> None:
        self.spec = spec
        self.keys = observation_spaces(spec.observation_space)
        self.images = [key for key, space in self.keys.items() if is_image(space)]
        self.shapes = {key: encoded_shape(space) for key, space in self.keys.items()}
        self.action_size = action_size(spec.action_space)
        self._clip = {key: _clip_bounds(key, space, ranges) for key, space in self.keys.items()}
        low, high = action_bounds(spec.action_space, ranges)
        self._action_gain = 2.0 / (high - low)
        self._action_offset = -low * self._action_gain - 1.0
        # Rewards are clipped as numpy arrays, so the bounds need no tensors.
        self._reward = None if ranges is None else ranges.reward

    def encode_observation(
        self, observation: Any, *, device: torch.device | str = "cpu"
    ) -> Observation:
        """Encode batched environment observations (B, ...), or a dict of them, as key -> (B, *O) float32.

        Raises InvalidObservationError for a wrong shape, a wrong dtype, a missing key or a non-finite value.
        """
        parts = (
            observation
            if isinstance(self.spec.observation_space, spaces.Dict)
            else {OBSERVATION: observation}
        )
        if not isinstance(parts, dict) or set(parts) != set(self.keys):
            got = sorted(parts) if isinstance(parts, dict) else type(parts).__name__
            raise InvalidObservationError(
                f"expected an observation dict with the keys {sorted(self.keys)}, got {got}"
            )
        return {
            key: torch.as_tensor(_encode(key, space, _as_array(key, parts[key])), device=device)
            for key, space in self.keys.items()
        }

    def decode_observation(self, observation: Observation) -> Any:
        """Decode to new environment arrays (B, ...) with the dtype of the space.

        Values are clipped to the space, and to the range of the data with its margin (`data_range.widened`).
        """
        arrays = {key: observation[key].numpy(force=True) for key in self.keys}
        return self.decode_arrays(arrays)

    def decode_arrays(self, arrays: dict[str, np.ndarray]) -> Any:
        """Decode arrays, key -> (B, *O). The inputs are not modified."""
        parts = {
            key: _decode(space, arrays[key], self._clip[key]) for key, space in self.keys.items()
        }
        return parts if isinstance(self.spec.observation_space, spaces.Dict) else parts[OBSERVATION]

    def encode_action(self, action: Any, *, device: torch.device | str = "cpu") -> Tensor:
        """Encode batched environment actions (B, ...) as float32 (B, A).

        A finite Box action outside the bounds is clipped, as real environments do.
        Raises InvalidActionError for a wrong shape, a non-finite value, or a Discrete value out of range.
        """
        space = self.spec.action_space
        array = np.asarray(action)
        _check_shape(array, space, InvalidActionError, "action")
        if isinstance(space, spaces.Box):
            return torch.from_numpy(self._encode_box_action(array)).to(device)
        return torch.as_tensor(_one_hot(array, space, InvalidActionError, "action"), device=device)

    def clip_reward(self, reward: np.ndarray) -> np.ndarray:
        """Clip rewards (B,) to the range of the data."""
        return reward if self._reward is None else np.clip(reward, *self._reward)

    def _encode_box_action(self, array: np.ndarray) -> np.ndarray:
        if not _is_real(array) or not np.isfinite(array).all():
            raise InvalidActionError(
                f"action has values that are not finite real numbers: {_excerpt(array)}. The usual cause is a "
                "policy that diverged: lower its learning rate, or normalise its observations."
            )
        scaled = array.reshape(len(array), -1) * self._action_gain + self._action_offset
        return np.minimum(np.maximum(scaled, -1.0), 1.0).astype(np.float32)


def packed(observation: Observation, keys: Iterable[str]) -> Observation:
    """Convert the images of these keys to uint8, without loss. `batch.unpacked` is the inverse."""
    return {
        key: (value * 255.0).round().to(torch.uint8) if key in keys else value
        for key, value in observation.items()
    }


def _clip_bounds(
    key: str, space: spaces.Space[Any], ranges: DataRange | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Clip bounds (low, high) of decoded values: the space, intersected with the widened range of the data.

    Both have the shape and dtype of the space. None if no value is bounded.
    """
    if not isinstance(space, spaces.Box) or is_image(space):
        return None
    low, high = (np.asarray(bound, np.float64).reshape(-1) for bound in (space.low, space.high))
    if ranges is not None and key in ranges.observation:
        data_low, data_high = widened(*(np.asarray(bound) for bound in ranges.observation[key]))
        low, high = np.maximum(low, data_low), np.minimum(high, data_high)
    if not (np.isfinite(low) | np.isfinite(high)).any():
        return None
    # Rounding to the dtype of the space may move a bound outside of the space.
    shaped = (bound.reshape(space.shape).astype(space.dtype) for bound in (low, high))
    lower, upper = (np.clip(bound, space.low, space.high) for bound in shaped)
    return lower, upper


def action_bounds(
    space: spaces.Space[Any], ranges: DataRange | None
) -> tuple[np.ndarray, np.ndarray]:
    """Flat bounds (A,) that are scaled to [-1, 1]: those of the space; where it is unbounded, those of the data."""
    if not isinstance(space, spaces.Box):
        return np.zeros(0), np.zeros(0)
    low, high = (
        np.asarray(bound, np.float64).reshape(-1).copy() for bound in (space.low, space.high)
    )
    data = (np.full_like(low, -1.0), np.full_like(high, 1.0))
    if ranges is not None and ranges.action is not None:
        data = (np.asarray(ranges.action[0], np.float64), np.asarray(ranges.action[1], np.float64))
    unbounded = ~np.isfinite(low) | ~np.isfinite(high)
    low[unbounded], high[unbounded] = data[0][unbounded], data[1][unbounded]
    high = np.where(high > low, high, low + 1.0)
    return low, high


def _as_array(key: str, observation: Any) -> np.ndarray:
    try:
        return np.asarray(observation)
    except ValueError as error:
        raise InvalidObservationError(
            f"observation {key!r} cannot be converted to an array: {error}"
        ) from error


def _check_shape(
    array: np.ndarray, space: spaces.Space[Any], error: type[ValueError], name: str
) -> None:
    """Check a batch (B, ...). The message names the shape without B, which a single environment does not have."""
    shape = space.shape or ()
    if array.ndim == 0:
        raise error(f"{name} has no batch dimension, expected the shape (num_envs, *{shape})")
    if array.shape[1:] != shape:
        raise error(
            f"{name} has the shape {array.shape[1:]}, expected {shape}: pass a value of {space} for each environment"
        )


def _encode(key: str, space: spaces.Space[Any], array: np.ndarray) -> np.ndarray:
    _check_shape(array, space, InvalidObservationError, f"observation {key!r}")
    if isinstance(space, spaces.Box) and not (_is_real(array) or array.dtype == bool):
        raise InvalidObservationError(
            f"observation {key!r} has the dtype {array.dtype}, expected real numbers: {_excerpt(array)}"
        )
    if is_image(space):
        if array.dtype != np.uint8:
            raise InvalidObservationError(
                f"observation {key!r} is an image with the dtype {array.dtype}, expected uint8 (0 to 255): "
                f"{_excerpt(array)}"
            )
        image = array if array.ndim == 4 else array[..., None]
        image = image if channels_first(space) else np.moveaxis(image, -1, 1)
        return np.ascontiguousarray(image).astype(np.float32) / 255.0
    if isinstance(space, spaces.Box):
        values = array.astype(np.float32)
        if not np.isfinite(values).all():
            raise InvalidObservationError(
                f"observation {key!r} has NaN or infinite values: {_excerpt(array)}"
            )
        return values.reshape(len(array), *encoded_shape(space))
    return _one_hot(array, space, InvalidObservationError, f"observation {key!r}")


def _decode(
    space: spaces.Space[Any], array: np.ndarray, clip: tuple[np.ndarray, np.ndarray] | None
) -> np.ndarray:
    rows = len(array)
    if is_image(space):
        image = (array * 255.0).round().clip(0, 255).astype(np.uint8)
        image = image if channels_first(space) else np.moveaxis(image, 1, -1)
        return np.ascontiguousarray(image.reshape(rows, *(space.shape or ())))
    if isinstance(space, spaces.Box):
        if space.dtype.kind != "f":
            # Integers are clipped before the cast, because a cast wraps around.
            rounded = array.reshape(rows, *space.shape).astype(np.float64).round()
            rounded = rounded if clip is None else rounded.clip(*clip)
            return np.clip(rounded.astype(space.dtype), space.low, space.high)
        values = array.reshape(rows, *space.shape).astype(space.dtype)
        if clip is None:
            return values
        np.maximum(values, clip[0], out=values)
        return np.minimum(values, clip[1], out=values)
    return _from_one_hot(array, space)


def _categories(space: spaces.Space[Any]) -> tuple[np.ndarray, np.ndarray]:
    """(sizes, starts) of a Discrete or MultiDiscrete space, one entry per component."""
    if isinstance(space, spaces.Discrete):
        return np.array([space.n]), np.array([space.start])
    assert isinstance(space, spaces.MultiDiscrete)
    return space.nvec, space.start


def _one_hot(
    array: np.ndarray, space: spaces.Space[Any], error: type[ValueError], name: str
) -> np.ndarray:
    sizes, starts = _categories(space)
    if array.dtype.kind not in "iu":
        raise error(
            f"invalid {name} for {space}: the dtype is {array.dtype}, expected integers: {_excerpt(array)}"
        )
    indices = array.reshape(len(array), -1) - starts
    if ((indices < 0) | (indices >= sizes)).any():
        raise error(
            f"invalid {name} {_excerpt(array)} for {space}: expected {_integer_ranges(starts, sizes)}"
        )
    encoded = np.zeros((len(array), int(sizes.sum())), np.float32)
    # Plain indexing: `put_along_axis` has twice the cost for one row.
    encoded[np.arange(len(array))[:, None], indices + (sizes.cumsum() - sizes)] = 1.0
    return encoded


def _integer_ranges(starts: np.ndarray, sizes: np.ndarray) -> str:
    """Text of the valid integers: "an integer in [0, 1]", or one range per component."""
    ranges = [f"[{start}, {start + size - 1}]" for start, size in zip(starts, sizes, strict=True)]
    return "an integer in " + ranges[0] if len(ranges) == 1 else "integers in " + ", ".join(ranges)


def _from_one_hot(array: np.ndarray, space: spaces.Space[Any]) -> np.ndarray:
    sizes, starts = _categories(space)
    parts = np.split(array.reshape(len(array), -1), sizes.cumsum()[:-1], axis=1)
    indices = np.stack([part.argmax(1) for part in parts], axis=1) + starts
    return indices.reshape(len(array), *(space.shape or ())).astype(space.dtype)


def _is_real(array: np.ndarray) -> bool:
    """Return True for integer and floating-point arrays, False for strings, objects, booleans and complex numbers."""
    return array.dtype.kind in "fiu"


def _excerpt(array: np.ndarray) -> str:
    """First values of an array, for messages; a single value without brackets."""
    if array.size == 1:
        return str(array.reshape(-1)[0])
    return np.array2string(array.reshape(-1)[:8], precision=4) + (" ..." if array.size > 8 else "")
