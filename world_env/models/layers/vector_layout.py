"""Layout of an observation's keys in one flat vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from world_env.batch import Observation
from world_env.errors import UnsupportedSpaceError
from world_env.spaces import is_image, is_tiny_image, observation_spaces, symbols_advice
from world_env.spec import WorldSpec, encoded_shapes


class VectorLayout:
    """Conversion between an observation and one flat vector of D numbers.

    family: name of the family, for the message.
    Raises UnsupportedSpaceError if the observation space holds an image.
    """

    def __init__(self, spec: WorldSpec, *, family: str) -> None:
        parts = observation_spaces(spec.observation_space)
        images = [key for key, space in parts.items() if is_image(space)]
        if images:
            tiny = is_tiny_image(parts[images[0]])
            symbols = f". {symbols_advice(images[0])}" if tiny else ""
            raise UnsupportedSpaceError(
                f"family {family!r} supports vector observations only, but observation {images[0]!r} is an image "
                f"{parts[images[0]]}: use a family with an image encoder, such as 'rssm'{symbols}"
            )
        self.shapes = encoded_shapes(spec)
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.size = sum(self.sizes)
        # A single flat key, the usual case, needs no conversion.
        flat = [key for key, shape in self.shapes.items() if len(shape) == 1]
        self._plain = flat[0] if len(flat) == len(self.shapes) == 1 else None

    def flatten(self, observation: Observation) -> Tensor:
        """Flatten an observation, key -> (..., *O), to (..., D)."""
        parts = [observation[key].flatten(-len(shape)) for key, shape in self.shapes.items()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def unflatten(self, vector: Tensor) -> Observation:
        """Inverse of `flatten`: (..., D) to key -> (..., *O)."""
        if self._plain is not None:
            return {self._plain: vector}
        parts = vector.split(self.sizes, -1)
        return {
            key: part.unflatten(-1, shape)
            for part, (key, shape) in zip(parts, self.shapes.items(), strict=True)
        }
