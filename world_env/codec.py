"""The only place where environment arrays become model tensors and back.

Encoded observations are always a dict of float32 tensors. Box floats keep their values (models normalise them);
images uint8 (H, W, C), (H, W) or (C, H, W) become (C, H, W) in [0, 1]; Discrete and MultiDiscrete become one-hots.
Encoded actions are always float32 (B, A): Box scaled to [-1, 1], Discrete one-hot, MultiDiscrete concatenated
one-hots.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from world_env.batch import Observation
from world_env.data_range import DataRange
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

_MARGIN = 0.1
"""Predicted observations may leave the data's range by this share of its width (field evidence: guards)."""


class Codec:
    """Encodes and decodes for one spec. Pure: holds only bounds and sizes.

    spec: the world's spaces.
    ranges: what the data showed; None (no data): nothing is clipped beyond the space, unbounded actions pass as
        they are.
    """

    def __init__(self, spec: WorldSpec, ranges: DataRange | None = None) -> None:
        self.spec = spec
        self.keys = observation_spaces(spec.observation_space)
        self.images = [key for key, space in self.keys.items() if is_image(space)]
        self.shapes = {key: encoded_shape(space) for key, space in self.keys.items()}
        self.action_size = action_size(spec.action_space)
        self._clip = {key: _clip_bounds(key, space, ranges) for key, space in self.keys.items()}
        low, high = _action_bounds(spec.action_space, ranges)
        self._action_gain = 2.0 / (high - low)
        self._action_offset = -low * self._action_gain - 1.0
        # Gradients and devices never pass through here: bounds stay plain arrays.
        self._reward = None if ranges is None else ranges.reward

    def encode_observation(
        self, observation: Any, *, device: torch.device | str = "cpu"
    ) -> Observation:
        """Batched environment observations (B, ...), or a dict of them, as tensors key -> (B, *O).

        Raises InvalidObservationError on a wrong shape, a missing key or a non-finite number.
        """
        parts = (
            observation
            if isinstance(self.spec.observation_space, spaces.Dict)
            else {OBSERVATION: observation}
        )
        if not isinstance(parts, dict) or set(parts) != set(self.keys):
            got = sorted(parts) if isinstance(parts, dict) else type(parts).__name__
            raise InvalidObservationError(
                f"expected a dict with the keys {sorted(self.keys)}, got {got}"
            )
        return {
            key: torch.as_tensor(_encode(key, space, _as_array(key, parts[key])), device=device)
            for key, space in self.keys.items()
        }

    def decode_observation(self, observation: Observation) -> Any:
        """Fresh environment arrays (B, ...), dtype and bounds of the space, near the data's range."""
        arrays = {key: observation[key].numpy(force=True) for key in self.keys}
        return self.decode_arrays(arrays)

    def decode_arrays(self, arrays: dict[str, np.ndarray]) -> Any:
        """The same for arrays, key -> (B, *O), which stay as they are."""
        parts = {
            key: _decode(space, arrays[key], self._clip[key]) for key, space in self.keys.items()
        }
        return parts if isinstance(self.spec.observation_space, spaces.Dict) else parts[OBSERVATION]

    def encode_action(self, action: Any, *, device: torch.device | str = "cpu") -> Tensor:
        """Batched environment actions as a float32 tensor (B, A).

        A finite Box action outside its bounds is clipped, as real environments do.
        Raises InvalidActionError on a wrong shape, a non-finite number or a Discrete value out of range.
        """
        space = self.spec.action_space
        array = np.asarray(action)
        if array.ndim == 0 or array.shape[1:] != (space.shape or ()):
            raise InvalidActionError(
                f"an action batch for {space} has the shape (rows, {', '.join(map(str, space.shape or ()))}), "
                f"got {array.shape}: pass what `action_space.sample()` returns, one for each row"
            )
        if isinstance(space, spaces.Box):
            return torch.from_numpy(self._encode_box_action(array)).to(device)
        return torch.as_tensor(_one_hot(array, space, InvalidActionError, "action"), device=device)

    def clip_reward(self, reward: np.ndarray) -> np.ndarray:
        """Rewards (B,) kept within what the data showed."""
        return reward if self._reward is None else np.clip(reward, *self._reward)

    def _encode_box_action(self, array: np.ndarray) -> np.ndarray:
        if not _is_real(array) or not np.isfinite(array).all():
            raise InvalidActionError(
                f"the action holds values that are not finite real numbers: {_excerpt(array)}. "
                "A diverged policy is the usual cause: lower its learning rate or normalise its inputs."
            )
        scaled = array.reshape(len(array), -1) * self._action_gain + self._action_offset
        return np.minimum(np.maximum(scaled, -1.0), 1.0).astype(np.float32)


def packed(observation: Observation, keys: Iterable[str]) -> Observation:
    """Encoded observations with the pixels of these keys as bytes: a quarter of the memory, and the same numbers."""
    return {
        key: (value * 255.0).round().to(torch.uint8) if key in keys else value
        for key, value in observation.items()
    }


def _clip_bounds(
    key: str, space: spaces.Space[Any], ranges: DataRange | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Bounds for emitted numbers, of the space's shape and dtype: the space, within it the data's range and a margin.

    None where nothing is bounded.
    """
    if not isinstance(space, spaces.Box) or is_image(space):
        return None
    low, high = (np.asarray(bound, np.float64).reshape(-1) for bound in (space.low, space.high))
    if ranges is not None and key in ranges.observation:
        seen_low, seen_high = (np.asarray(bound) for bound in ranges.observation[key])
        margin = _MARGIN * (seen_high - seen_low)
        low, high = np.maximum(low, seen_low - margin), np.minimum(high, seen_high + margin)
    if not (np.isfinite(low) | np.isfinite(high)).any():
        return None
    # Rounded to the space's dtype, bounds must not step over the space's own.
    shaped = (bound.reshape(space.shape).astype(space.dtype) for bound in (low, high))
    lower, upper = (np.clip(bound, space.low, space.high) for bound in shaped)
    return lower, upper


def _action_bounds(
    space: spaces.Space[Any], ranges: DataRange | None
) -> tuple[np.ndarray, np.ndarray]:
    """Flat (A,) bounds that are scaled to [-1, 1]: the space's; where unbounded, the data's."""
    if not isinstance(space, spaces.Box):
        return np.zeros(0), np.zeros(0)
    low, high = (
        np.asarray(bound, np.float64).reshape(-1).copy() for bound in (space.low, space.high)
    )
    seen = (np.full_like(low, -1.0), np.full_like(high, 1.0))
    if ranges is not None and ranges.action is not None:
        seen = (np.asarray(ranges.action[0], np.float64), np.asarray(ranges.action[1], np.float64))
    open_ended = ~np.isfinite(low) | ~np.isfinite(high)
    low[open_ended], high[open_ended] = seen[0][open_ended], seen[1][open_ended]
    high = np.where(high > low, high, low + 1.0)
    return low, high


def _as_array(key: str, observation: Any) -> np.ndarray:
    try:
        return np.asarray(observation)
    except ValueError as error:
        raise InvalidObservationError(
            f"observation {key!r} is no array of one shape: {error}"
        ) from error


def _encode(key: str, space: spaces.Space[Any], array: np.ndarray) -> np.ndarray:
    shape = space.shape or ()
    if array.ndim == 0 or array.shape[1:] != shape:
        raise InvalidObservationError(
            f"observation {key!r} should have the shape (rows, *{shape}), got {array.shape}"
        )
    if isinstance(space, spaces.Box) and not (_is_real(array) or array.dtype == bool):
        raise InvalidObservationError(
            f"observation {key!r} should hold real numbers, got {array.dtype}: {_excerpt(array)}"
        )
    if is_image(space):
        if array.dtype != np.uint8:
            raise InvalidObservationError(
                f"observation {key!r} is a picture of bytes (uint8, 0 to 255), got {array.dtype}: {_excerpt(array)}"
            )
        image = array if array.ndim == 4 else array[..., None]
        image = image if channels_first(space) else np.moveaxis(image, -1, 1)
        return np.ascontiguousarray(image).astype(np.float32) / 255.0
    if isinstance(space, spaces.Box):
        values = array.astype(np.float32)
        if not np.isfinite(values).all():
            raise InvalidObservationError(
                f"observation {key!r} holds non-finite numbers: {_excerpt(array)}"
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
            # Whole numbers are bounded before they are cast: a cast wraps around.
            whole = array.reshape(rows, *space.shape).astype(np.float64).round()
            whole = whole if clip is None else whole.clip(*clip)
            return np.clip(whole.astype(space.dtype), space.low, space.high)
        values = array.reshape(rows, *space.shape).astype(space.dtype)
        if clip is None:
            return values
        np.maximum(values, clip[0], out=values)
        return np.minimum(values, clip[1], out=values)
    return _from_one_hot(array, space)


def _categories(space: spaces.Space[Any]) -> tuple[np.ndarray, np.ndarray]:
    """(sizes, starts) of a Discrete or MultiDiscrete space, one entry a digit."""
    if isinstance(space, spaces.Discrete):
        return np.array([space.n]), np.array([space.start])
    assert isinstance(space, spaces.MultiDiscrete)
    return space.nvec, space.start


def _one_hot(
    array: np.ndarray, space: spaces.Space[Any], error: type[ValueError], what: str
) -> np.ndarray:
    sizes, starts = _categories(space)
    if array.dtype == bool or not np.issubdtype(array.dtype, np.integer):
        raise error(
            f"{what} of {space} must be whole numbers, got {array.dtype}: {_excerpt(array)}"
        )
    digits = array.reshape(len(array), -1) - starts
    if ((digits < 0) | (digits >= sizes)).any():
        raise error(
            f"{what} of {space} must lie in {[(int(a), int(a + n - 1)) for a, n in zip(starts, sizes, strict=True)]} "
            f"(first, last), got {_excerpt(array)}"
        )
    encoded = np.zeros((len(array), int(sizes.sum())), np.float32)
    np.put_along_axis(encoded, digits + np.concatenate([[0], sizes.cumsum()[:-1]]), 1.0, axis=1)
    return encoded


def _from_one_hot(array: np.ndarray, space: spaces.Space[Any]) -> np.ndarray:
    sizes, starts = _categories(space)
    parts = np.split(array.reshape(len(array), -1), sizes.cumsum()[:-1], axis=1)
    digits = np.stack([part.argmax(1) for part in parts], axis=1) + starts
    return digits.reshape(len(array), *(space.shape or ())).astype(space.dtype)


def _is_real(array: np.ndarray) -> bool:
    """Whether an array holds numbers of which nothing is lost in a float: no words, objects or complex numbers."""
    return array.dtype.kind in "fiu"


def _excerpt(array: np.ndarray) -> str:
    return np.array2string(array.reshape(-1)[:8], precision=4) + (" ..." if array.size > 8 else "")
