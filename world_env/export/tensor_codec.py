"""The codec of a twin on tensors, for graphs: the functions of `world_env.codec`, which use numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional

from world_env.batch import Observation
from world_env.codec import Codec
from world_env.errors import ExportError
from world_env.export.onnx_graph import Tensors
from world_env.spaces import channels_first, is_image
from world_env.spec import encoded_shapes
from world_env.types import OBSERVATION

_FAR = 1e30
"""A value beyond all finite bounds of observations."""
_INTEGERS = ("uint8", "int8", "int16", "int32", "int64")
"""Integer types of torch; others become int64."""


class TensorCodec:
    """Decoder of observations, encoder of observations and actions, as graphs need them.

    Real numbers are float32 in the environment's units, integers keep their dtype. An observation of a Dict has one
    tensor a key, "observation.KEY".
    Raises ExportError for spaces whose encoding it does not have.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._action = codec.spec.action_space
        self.names = {key: _name(codec, key) for key in codec.keys}
        self._bounds = {
            key: _bounds(codec, key)
            for key, space in codec.keys.items()
            if isinstance(space, spaces.Box) and not is_image(space)
        }
        self.rounded = frozenset(
            name
            for key, name in self.names.items()
            if np.dtype(codec.keys[key].dtype).kind != "f"
            and isinstance(codec.keys[key], spaces.Box)
        )
        """Names of decoded observations that are rounded to integers."""
        self._check()

    def arrays(self, observation: Any) -> dict[str, np.ndarray]:
        """Return environment observations (B, ...), as the tensors of a graph, by name."""
        parts = observation if isinstance(observation, dict) else {OBSERVATION: observation}
        return {self.names[key]: plain(np.asarray(parts[key])) for key in self.names}

    def decode(self, observation: Observation) -> Tensors:
        """Decode an observation of the model, as `Codec.decode_observation`."""
        return {
            name: self._decode(key, observation[key].to(torch.float32))
            for key, name in self.names.items()
        }

    def encode(self, tensors: Tensors, dtype: torch.dtype) -> Observation:
        """Encode an observation, as `Codec.encode_observation`."""
        return {key: self._encode(key, tensors[name]).to(dtype) for key, name in self.names.items()}

    def encode_action(self, action: Tensor, dtype: torch.dtype) -> Tensor:
        """Encode actions, as `Codec.encode_action`."""
        if not isinstance(self._action, spaces.Box):
            return _one_hot(action, self._action).to(dtype)
        gain, offset = (
            torch.as_tensor(value, dtype=torch.float32) for value in self._codec.action_scale
        )
        return (action.flatten(1) * gain + offset).clamp(-1.0, 1.0).to(dtype)

    def _decode(self, key: str, values: Tensor) -> Tensor:
        space = self._codec.keys[key]
        if is_image(space):
            image = (values * 255.0).round().clamp(0.0, 255.0).to(torch.uint8)
            image = image if channels_first(space) else image.movedim(1, -1)
            return image.reshape(-1, *(space.shape or ()))
        if isinstance(space, spaces.Box):
            low, high = self._bounds[key]
            shaped = self._with_angles(key, values).reshape(-1, *space.shape)
            if space.dtype.kind == "f":
                return shaped.clamp(low.to(torch.float32), high.to(torch.float32))
            # float32 cannot hold the bounds of large integers.
            return shaped.to(torch.float64).round().clamp(low, high).to(_integer(space))
        sizes, starts = _categories(space)
        parts = values.flatten(1).split(sizes, 1)
        numbers = torch.stack([part.argmax(1) for part in parts], 1) + torch.tensor(starts)
        return numbers.reshape(-1, *(space.shape or ())).to(_integer(space))

    def _encode(self, key: str, values: Tensor) -> Tensor:
        space = self._codec.keys[key]
        shape = self._codec.shapes[key]
        if is_image(space):
            image = values.to(torch.float32) / 255.0
            if len(space.shape or ()) == 2:
                return image.unsqueeze(1)
            return image if channels_first(space) else image.movedim(-1, 1)
        if isinstance(space, spaces.Box):
            real = values.to(torch.float32)
            return self._without_angles(key, real).reshape(-1, *shape)
        return _one_hot(values, space)

    def _with_angles(self, key: str, values: Tensor) -> Tensor:
        """Values (B, D) of a key, with the angles of their cosines and sines."""
        angles = self._codec.spec.angles.get(key, ())
        if not angles:
            return values
        flat = values.flatten(1)
        size = flat.shape[1] - len(angles)
        columns = list(flat[:, :size].unbind(1))
        for place, (column, low, period) in enumerate(angles):
            # onnxruntime has no arctangent in double precision.
            angle = torch.atan2(flat[:, size + place], columns[column])
            turns = angle.double() / (2.0 * math.pi) - low / period
            angle = (low + (turns - turns.floor()) * period).to(torch.float32)
            # Rounding may reach the end of the period, which is its beginning.
            columns[column] = torch.where(angle < low + period, angle, low)
        return torch.stack(columns, 1)

    def _without_angles(self, key: str, values: Tensor) -> Tensor:
        """Inverse of `_with_angles`."""
        angles = self._codec.spec.angles.get(key, ())
        if not angles:
            return values
        columns = list(values.flatten(1).unbind(1))
        phases = [columns[column] * (2.0 * math.pi / period) for column, _, period in angles]
        for (column, *_), phase in zip(angles, phases, strict=True):
            columns[column] = phase.cos()
        return torch.stack([*columns, *[phase.sin() for phase in phases]], 1)

    def _check(self) -> None:
        """Raise ExportError where these functions are not those of the codec."""
        rng = np.random.default_rng(0)
        for key, space in self._codec.keys.items():
            known = isinstance(
                space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
            )
            if not known or self._codec.shapes[key] != encoded_shapes(self._codec.spec)[key]:
                raise ExportError(
                    f"observation {key!r} ({space}) has an encoding that graphs do not have: expected plain Box, "
                    "Discrete or MultiDiscrete observations, or images. Export a twin of other observations, or step "
                    "this twin with world-env"
                )
        encoded = {
            key: torch.as_tensor(rng.uniform(0.0, 1.0, (4, *shape)), dtype=torch.float32)
            for key, shape in self._codec.shapes.items()
        }
        theirs = self._codec.decode_observation(encoded)
        ours = self.decode(encoded)
        back = self._codec.encode_observation(theirs)
        again = self.encode(
            {n: torch.as_tensor(v) for n, v in self.arrays(theirs).items()}, torch.float32
        )
        for key, name in self.names.items():
            one = ours[name].double(), torch.as_tensor(self.arrays(theirs)[name]).double()
            two = again[key].double(), back[key].double()
            if not all(torch.allclose(*pair, rtol=1e-5, atol=1e-6) for pair in (one, two)):
                raise ExportError(
                    f"observation {key!r} ({self._codec.keys[key]}) is encoded in another way than in graphs: step "
                    "this twin with world-env"
                )


def plain(values: np.ndarray) -> np.ndarray:
    """Return environment arrays as inputs of a graph: float32, or integers of a type that torch has."""
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    return values if str(values.dtype) in _INTEGERS else values.astype(np.int64)


def _integer(space: spaces.Space[Any]) -> torch.dtype:
    name = str(np.dtype(space.dtype))
    return getattr(torch, name if name in _INTEGERS else "int64")  # type: ignore[no-any-return]


def _name(codec: Codec, key: str) -> str:
    return f"{OBSERVATION}.{key}" if isinstance(codec.spec.observation_space, spaces.Dict) else key


def _bounds(codec: Codec, key: str) -> tuple[Tensor, Tensor]:
    """Bounds of the decoded values of a Box, as the codec clips them."""
    found = []
    for value in (-_FAR, _FAR):
        encoded = {each: np.full((1, *shape), value) for each, shape in codec.shapes.items()}
        # Only the values of this key are read; one beyond all integers is a bound too.
        with np.errstate(all="ignore"):
            decoded = codec.decode_arrays(encoded)
        part = decoded[key] if isinstance(decoded, dict) else decoded
        bound = np.array(part, np.float64)
        space, flat = codec.keys[key], bound.reshape(-1)
        assert isinstance(space, spaces.Box)
        for column, *_ in codec.spec.angles.get(key, ()):
            flat[column] = (space.low if value < 0 else space.high).reshape(-1)[column]
        found.append(torch.as_tensor(bound))
    return found[0], found[1]


def _categories(space: spaces.Space[Any]) -> tuple[list[int], list[int]]:
    """(sizes, starts) of a space of categories, one entry per component."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)], [int(space.start)]
    if isinstance(space, spaces.MultiBinary):
        size = math.prod(space.shape)
        return [2] * size, [0] * size
    assert isinstance(space, spaces.MultiDiscrete)
    return space.nvec.tolist(), space.start.tolist()


def _one_hot(values: Tensor, space: spaces.Space[Any]) -> Tensor:
    sizes, starts = _categories(space)
    numbers = values.reshape(-1, len(sizes)).to(torch.int64) - torch.tensor(starts)
    parts = [
        functional.one_hot(numbers[:, index], size).to(torch.float32)
        for index, size in enumerate(sizes)
    ]
    return torch.cat(parts, 1)
