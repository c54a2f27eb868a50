"""Conversion of environment arrays to model tensors and back. No other module does this.

An encoded observation is a dict of float32 tensors. Box values are kept; models normalise them. Angles of the spec
become cosine and sine, and columns that float32 cannot resolve are centred first (`DataRange.offset`). uint8 images
(H, W, C), (H, W) or (C, H, W) become (C, H, W) in [0, 1]. Discrete, MultiDiscrete and MultiBinary become one-hot
vectors.
An encoded action is float32 (B, A). A Box is scaled to [-1, 1], Discrete becomes a one-hot vector, and MultiDiscrete
and MultiBinary become concatenated one-hot vectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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
    categories,
    channels_first,
    is_image,
    observation_spaces,
)
from world_env.spec import Angle, WorldSpec, encoded_shapes
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
        self.shapes = encoded_shapes(spec)
        self.action_size = action_size(spec.action_space)
        self._boxes = {
            key: _BoxColumns(key, space, spec.angles.get(key, ()), ranges)
            for key, space in self.keys.items()
            if isinstance(space, spaces.Box) and not is_image(space)
        }
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
            key: torch.as_tensor(
                _encode(key, space, _as_array(key, parts[key]), self._boxes.get(key)), device=device
            )
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
            key: _decode(space, arrays[key], self._boxes.get(key))
            for key, space in self.keys.items()
        }
        return parts if isinstance(self.spec.observation_space, spaces.Dict) else parts[OBSERVATION]

    def decoded_tensor(self, encoded: Tensor) -> Tensor:
        """Decode (B, *O) of a Box that is not an image to (B, ...) float32, with gradients and without bounds.

        The other decoders give arrays within the bounds of the space and of the data. Raises KeyError for other spaces.
        """
        return self._boxes[OBSERVATION].decoded_tensor(encoded)

    def column_names(self, key: str) -> list[str]:
        """Return the names of the encoded dimensions of a key that is not an image: "key[0]", "cos key[1]", ..."""
        names = [f"{key}[{i}]" for i in range(math.prod(self.shapes[key]))]
        angles = self.spec.angles.get(key, ())
        for (column, *_), sine in zip(
            angles, range(len(names) - len(angles), len(names)), strict=True
        ):
            names[column], names[sine] = f"cos {key}[{column}]", f"sin {key}[{column}]"
        return names

    def angle_pairs(self, key: str) -> list[tuple[int, int]]:
        """Return the encoded dimensions of each angle of a key: (cosine, sine)."""
        angles = self.spec.angles.get(key, ())
        first = math.prod(self.shapes[key]) - len(angles)
        return [(angle.column, first + i) for i, angle in enumerate(angles)]

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

    @property
    def action_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """(gain, offset), each (A,): an encoded Box action is action * gain + offset, clipped to [-1, 1]."""
        return self._action_gain, self._action_offset

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


class _BoxColumns:
    """Conversion of the values of a Box that is not an image, and their bounds.

    Integers are rounded and clipped as integers, and centred values are restored in the dtype of the space, because
    float32 has 24 bits and float64 has 53.
    """

    def __init__(
        self, key: str, space: spaces.Box, angles: Sequence[Angle], ranges: DataRange | None
    ) -> None:
        self.space, self.dtype = space, np.dtype(space.dtype)
        self.size = math.prod(space.shape)
        self.columns = np.array([angle.column for angle in angles], np.int64)
        self.low_angle = np.array([angle.low for angle in angles], np.float64)
        self.period = np.array([angle.period for angle in angles], np.float64)
        self.shape = (self.size + len(angles),) if angles else (tuple(space.shape) or (1,))
        offset = None if ranges is None else ranges.offset.get(key)
        self.is_centred, self.is_float = offset is not None, self.dtype.kind == "f"
        centers = [0] * self.size if offset is None else offset
        self.centers = np.array(centers, np.float64)
        if self.is_float:
            self.clip = _clip_bounds(key, space, ranges, self.columns)
            return
        self.low, self.high = (bound.reshape(-1) for bound in (space.low, space.high))
        # Modulo 2^64, where sums and differences of all integer types are exact.
        self.whole_centers = np.array([int(each) % 2**64 for each in centers], np.uint64)
        self.low_change, self.high_change = (
            np.array([float(int(b) - int(c)) for b, c in zip(bound, centers, strict=True)])
            for bound in (self.low, self.high)
        )

    def encode(self, array: np.ndarray) -> np.ndarray:
        """Encode values (B, ...) as float32 (B, *O)."""
        rows = len(array)
        values = (self._centred(array) if self.is_centred else array).astype(np.float32)
        if not len(self.columns):
            return values.reshape(rows, *self.shape)
        angle = array.reshape(rows, -1)[:, self.columns].astype(np.float64)
        phase = angle * (2.0 * np.pi / self.period)
        whole = np.empty((rows, *self.shape), np.float32)
        whole[:, : self.size] = values.reshape(rows, -1)
        whole[:, self.columns], whole[:, self.size :] = np.cos(phase), np.sin(phase)
        return whole

    def _centred(self, array: np.ndarray) -> np.ndarray:
        flat = array.reshape(len(array), -1)
        if self.is_float or flat.dtype.kind == "f":
            return flat.astype(np.float64) - self.centers
        return (flat.astype(np.uint64) - self.whole_centers).view(np.int64)

    def decode(self, array: np.ndarray) -> np.ndarray:
        """Decode (B, *O) to new values (B, ...) within the bounds."""
        shape = (len(array), *self.space.shape)
        if not self.is_float:
            return self._integers(self._restored(array)).reshape(shape)
        if self.is_centred or len(self.columns):
            values = self._floats(self._restored(array)).reshape(shape)
        else:
            values = array.reshape(shape).astype(self.dtype)
        if self.clip is None:
            return values
        np.maximum(values, self.clip[0], out=values)
        return np.minimum(values, self.clip[1], out=values)

    def decoded_tensor(self, encoded: Tensor) -> Tensor:
        """`decode` of (B, *O) with gradients, as float32 and without bounds."""
        flat = encoded.flatten(1)
        values = flat[:, : self.size]
        if len(self.columns):
            low, period = (torch.as_tensor(x).to(flat) for x in (self.low_angle, self.period))
            columns = torch.as_tensor(self.columns, device=flat.device)
            angle = (
                torch.atan2(flat[:, self.size :], values[:, columns]) * period / (2.0 * torch.pi)
            )
            # Not `%`: the gradient of the angle is 1 on all of its period.
            angle = angle - period * ((angle - low) / period).detach().floor()
            values = values.index_copy(1, columns, angle)
        if self.is_centred:
            values = values + torch.as_tensor(self.centers).to(values)
        return values.float().unflatten(1, self.space.shape or (1,))

    def _floats(self, changes: np.ndarray) -> np.ndarray:
        """Convert differences (B, D) from the centers to values of the dtype of the space, not yet clipped."""
        values = (changes + self.centers).astype(self.dtype)
        # Rounding may reach the end of the period, which is its beginning.
        low, top = (
            each.astype(self.dtype) for each in (self.low_angle, self.low_angle + self.period)
        )
        angle = values[:, self.columns]
        values[:, self.columns] = np.where(angle < top, angle, low)
        return values

    def _restored(self, array: np.ndarray) -> np.ndarray:
        """Differences (B, D) float64 from the centers, of encoded values (B, *O), with angles in their period."""
        flat = array.reshape(len(array), -1)
        values = flat[:, : self.size].astype(np.float64)
        if len(self.columns):
            cosine, sine = values[:, self.columns], flat[:, self.size :].astype(np.float64)
            angle = np.arctan2(sine, cosine) * (self.period / (2.0 * np.pi))
            values[:, self.columns] = self.low_angle + (angle - self.low_angle) % self.period
        return values

    def _integers(self, changes: np.ndarray) -> np.ndarray:
        """Round and clip differences (B, D) from the centers to values of the space."""
        whole = changes.round()
        angle = whole[:, self.columns]
        over = angle >= self.low_angle + self.period
        whole[:, self.columns] = np.where(over, angle - self.period, angle)
        # Beyond the largest float64 below 2^64 the bounds apply.
        size = np.minimum(np.abs(whole), 2.0**64 - 2048.0).astype(np.uint64)
        values = np.where(whole < 0.0, np.uint64(0) - size, size) + self.whole_centers
        inside = np.where(whole <= self.low_change, self.low, values.astype(self.dtype))
        return np.where(whole >= self.high_change, self.high, inside)


def _clip_bounds(
    key: str, space: spaces.Box, ranges: DataRange | None, angles: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Clip bounds (low, high) of decoded values: the space, intersected with the widened range of the data.

    Both have the shape and dtype of the space. None if no value is bounded. angles: columns that have only the bounds
    of the space, because their data have no end.
    """
    low, high = (np.asarray(bound, np.float64).reshape(-1) for bound in (space.low, space.high))
    if ranges is not None and key in ranges.observation:
        data_low, data_high = widened(*(np.array(bound) for bound in ranges.observation[key]))
        data_low[angles], data_high[angles] = -np.inf, np.inf
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


def _encode(
    key: str, space: spaces.Space[Any], array: np.ndarray, box: _BoxColumns | None
) -> np.ndarray:
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
    if box is not None:
        values = box.encode(array)
        if not np.isfinite(values).all():
            raise InvalidObservationError(
                f"observation {key!r} has NaN or infinite values: {_excerpt(array)}"
            )
        return values
    return _one_hot(array, space, InvalidObservationError, f"observation {key!r}")


def _decode(space: spaces.Space[Any], array: np.ndarray, box: _BoxColumns | None) -> np.ndarray:
    if is_image(space):
        image = (array * 255.0).round().clip(0, 255).astype(np.uint8)
        image = image if channels_first(space) else np.moveaxis(image, 1, -1)
        return np.ascontiguousarray(image.reshape(len(array), *(space.shape or ())))
    return _from_one_hot(array, space) if box is None else box.decode(array)


def _one_hot(
    array: np.ndarray, space: spaces.Space[Any], error: type[ValueError], name: str
) -> np.ndarray:
    sizes, starts = categories(space)
    if isinstance(space, spaces.MultiBinary) and (
        # Stable-Baselines3 returns these actions as float32.
        array.dtype == bool or (array.dtype.kind == "f" and np.isin(array, (0.0, 1.0)).all())
    ):
        array = array.astype(space.dtype)
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
    sizes, starts = categories(space)
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
