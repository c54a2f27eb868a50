"""From observations to one embedding and back: vectors through dense layers, images through convolutions.

Vectors are normalised by the data's scales and then squashed by symlog; images stay in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from world_env.batch import Observation, Statistics
from world_env.models.layers.dense import dense
from world_env.models.layers.symlog import symexp, symlog
from world_env.spaces import encoded_shape, is_image, observation_spaces
from world_env.spec import WorldSpec

_REACH = 20.0
"""Scales within which values are told apart."""
_SMALLEST = 4
"""Rows or columns of an image after the last convolution, about."""


class Scales(nn.Module):
    """Center, scale and range of the numbers of a vector key, as buffers: (D,) each."""

    center: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        for name, value in (("center", 0.0), ("scale", 1.0), ("low", -1e6), ("high", 1e6)):
            self.register_buffer(name, torch.full((size,), value))

    def squash(self, values: Tensor) -> Tensor:
        """(..., D) as the networks see and predict them."""
        return symlog(((values - self.center) / self.scale).clamp(-_REACH, _REACH))

    def unsquash(self, squashed: Tensor) -> Tensor:
        """The inverse, kept near the data."""
        values = torch.addcmul(self.center, symexp(squashed.clamp(-4.0, 4.0)), self.scale)
        return values.clamp(self.low, self.high)

    def within(self, others: Scales) -> bool:
        """Whether other scales tell the values of this range apart, but for its margin."""
        reached = torch.stack([self.low, self.high]).sub(others.center).abs()
        return bool((reached <= 1.25 * _REACH * others.scale).all())


class EncoderDecoder(nn.Module):
    """Encoder and decoder of all keys of an observation.

    precision: how exactly vectors have to be shown, as the deviation of their squashed numbers. Pixels are many, and
    have a deviation of 1.
    size: E, of an embedding.
    """

    def __init__(
        self,
        spec: WorldSpec,
        *,
        hidden: int,
        patch: int,
        depth: int,
        features: int,
        precision: float,
    ) -> None:
        super().__init__()
        self.precision = precision
        parts = observation_spaces(spec.observation_space)
        self.shapes = {key: encoded_shape(space) for key, space in parts.items()}
        self.images = [key for key, space in parts.items() if is_image(space)]
        self.vectors = [key for key in self.shapes if key not in self.images]
        # Keys are free text, modules' names are not.
        numbers = [math.prod(self.shapes[key]) for key in self.vectors]
        self.scales = nn.ModuleList(Scales(size) for size in numbers)
        self.sizes = numbers
        self.size = 0
        if self.vectors:
            self.read: nn.Module = dense(sum(numbers), hidden, 2)
            self.write: nn.Module = nn.Sequential(
                *dense(features, hidden, 2), nn.Linear(hidden, sum(numbers))
            )
            self.size += hidden
        self.eyes = nn.ModuleList(
            _ImageEncoder(self.shapes[key], patch, depth, hidden) for key in self.images
        )
        self.pens = nn.ModuleList(
            _ImageDecoder(self.shapes[key], patch, depth, features, hidden) for key in self.images
        )
        self.size += hidden * len(self.images)

    def prepare(self, statistics: Statistics) -> None:
        """Take over the data's scales."""
        for key, scales in zip(self.vectors, self.scales, strict=True):
            for name in ("center", "scale", "low", "high"):
                getattr(scales, name).copy_(getattr(statistics, name)[key].flatten())

    def within(self, others: EncoderDecoder) -> bool:
        """Whether the scales of others tell all that this data holds apart."""
        pairs = zip(self.scales, others.scales, strict=True)
        return all(cast("Scales", mine).within(cast("Scales", theirs)) for mine, theirs in pairs)

    def encode(self, observation: Observation) -> Tensor:
        """Key -> (N, *O) to (N, E)."""
        parts = []
        if self.vectors:
            parts.append(self.read(self._squashed(observation)))
        parts += [eye(observation[key]) for key, eye in zip(self.images, self.eyes, strict=True)]
        return torch.cat(parts, -1)

    def decode(self, features: Tensor) -> Observation:
        """(N, F) to key -> (N, *O): the most likely observation."""
        found: Observation = {}
        if self.vectors:
            parts = self.write(features).split(self.sizes, -1)
            for key, part, scales in zip(self.vectors, parts, self.scales, strict=True):
                found[key] = cast("Scales", scales).unsquash(part).unflatten(-1, self.shapes[key])
        for key, pen in zip(self.images, self.pens, strict=True):
            found[key] = pen(features).clamp(0.0, 1.0)
        return {key: found[key] for key in self.shapes}

    def miss_vectors(self, features: Tensor, observation: Observation) -> Tensor:
        """(N,) negative log-likelihood of all vectors but for constants: half of squared errors over variances."""
        if not self.vectors:
            return features.new_zeros(len(features))
        difference = self.write(features) - self._squashed(observation)
        return 0.5 * (difference / self.precision).square().sum(-1)

    def miss_images(self, features: Tensor, observation: Observation) -> Tensor:
        """(N,) the same for all images."""
        missed = features.new_zeros(len(features))
        for key, pen in zip(self.images, self.pens, strict=True):
            difference = pen(features) - observation[key]
            missed = missed + 0.5 * difference.square().flatten(1).sum(-1)
        return missed

    def _squashed(self, observation: Observation) -> Tensor:
        return torch.cat(
            [
                cast("Scales", scales).squash(observation[key].flatten(1))
                for key, scales in zip(self.vectors, self.scales, strict=True)
            ],
            -1,
        )


class _ImageEncoder(nn.Module):
    """Patches, convolutions of stride 2 down to about 4 x 4, then one dense layer: it is read every step."""

    def __init__(self, shape: Sequence[int], patch: int, depth: int, hidden: int) -> None:
        super().__init__()
        patch = _fitting(patch, shape)
        channels, height, width = _in_patches(shape, patch)
        # Rows and columns that are missing for whole patches.
        self.patch, self.missing = patch, (height * patch - shape[1], width * patch - shape[2])
        self.layers = nn.ModuleList()
        self.norms = nn.ModuleList()
        for index in range(_halvings(height, width)):
            wider = depth * 2**index
            self.layers.append(nn.Conv2d(channels, wider, 4, 2, 1))
            self.norms.append(nn.GroupNorm(1, wider))
            channels, height, width = wider, height // 2, width // 2
        self.last = dense(channels * height * width, hidden)

    def forward(self, image: Tensor) -> Tensor:
        """(N, C, height, width) in [0, 1] to (N, hidden)."""
        rows, columns = self.missing
        hidden = functional.pixel_unshuffle(
            functional.pad(image, (0, columns, 0, rows)) - 0.5, self.patch
        )
        for layer, norm in zip(self.layers, self.norms, strict=True):
            hidden = functional.silu(norm(layer(hidden)))
        embedded: Tensor = self.last(hidden.flatten(1))
        return embedded


class _ImageDecoder(nn.Module):
    """The way back: transposed convolutions, and patches put together and cut to the image's size."""

    def __init__(
        self, shape: Sequence[int], patch: int, depth: int, features: int, hidden: int
    ) -> None:
        super().__init__()
        self.patch, (_, self.height, self.width) = _fitting(patch, shape), shape
        channels, height, width = _in_patches(shape, self.patch)
        halvings = _halvings(height, width)
        widths = [depth * 2**index for index in reversed(range(halvings))]
        self.start = (widths[0], -(-height // 2**halvings), -(-width // 2**halvings))
        self.first = nn.Sequential(
            *dense(features, hidden), nn.Linear(hidden, math.prod(self.start))
        )
        self.layers = nn.ModuleList()
        self.norms = nn.ModuleList()
        for wide, narrow in zip(widths, [*widths[1:], channels], strict=True):
            self.norms.append(nn.GroupNorm(1, wide))
            self.layers.append(nn.ConvTranspose2d(wide, narrow, 4, 2, 1))

    def forward(self, features: Tensor) -> Tensor:
        """(N, F) to (N, C, height, width), about [0, 1]."""
        hidden = self.first(features).unflatten(-1, self.start)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            hidden = layer(functional.silu(norm(hidden)))
        whole = functional.pixel_shuffle(hidden, self.patch)
        return whole[..., : self.height, : self.width] + 0.5


def _fitting(patch: int, shape: Sequence[int]) -> int:
    """The side of patches of an image of this shape: small ones leave something for the convolutions."""
    return min(patch, max(1, min(shape[1:]) // _SMALLEST))


def _in_patches(shape: Sequence[int], side: int) -> tuple[int, int, int]:
    """(channels, height, width) of an image of this shape whose squares of `side` pixels have become channels."""
    channels, height, width = shape
    return channels * side**2, -(-height // side), -(-width // side)


def _halvings(height: int, width: int) -> int:
    """How often an image can be halved before its shorter side is about as small as the last layer's."""
    return max(1, round(math.log2(min(height, width) / _SMALLEST)))
