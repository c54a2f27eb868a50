"""Encoder of observations to one embedding, and decoder of states to observations.

Vectors use dense layers, images use convolutions. Vectors are normalised by the scales of the data and transformed by
symlog; images stay in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from world_env.batch import Observation, Statistics
from world_env.models.layers.categories import Categories
from world_env.models.layers.dense import dense
from world_env.models.layers.symlog import symexp, symlog
from world_env.spaces import is_image, observation_spaces
from world_env.spec import WorldSpec, encoded_shapes

_MAX_NORMALIZED = 20.0
"""Largest normalised value; larger values are clipped."""
_MIN_SIDE = 4
"""Approximate height or width of the last feature map, the smaller of the two."""


class ObservationScaler(nn.Module):
    """Normaliser of one vector key: `center`, `scale`, `low` and `high` of the data as buffers, each (D,)."""

    center: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        for name, value in (("center", 0.0), ("scale", 1.0), ("low", -1e6), ("high", 1e6)):
            self.register_buffer(name, torch.full((size,), value))

    def squash(self, values: Tensor) -> Tensor:
        """Normalise values (..., D) and apply symlog: the inputs and targets of the networks."""
        normalized = (values - self.center) / self.scale
        return symlog(normalized.clamp(-_MAX_NORMALIZED, _MAX_NORMALIZED))

    def unsquash(self, squashed: Tensor) -> Tensor:
        """Inverse of `squash`, clipped to [`low`, `high`]."""
        values = torch.addcmul(self.center, symexp(squashed.clamp(-4.0, 4.0)), self.scale)
        return values.clamp(self.low, self.high)

    def within(self, other: ObservationScaler) -> bool:
        """Return True if the other scaler represents [`low`, `high`] with at most a small part clipped."""
        distance = torch.stack([self.low, self.high]).sub(other.center).abs()
        return bool((distance <= 1.25 * _MAX_NORMALIZED * other.scale).all())


class EncoderDecoder(nn.Module):
    """Encoder and decoder of all keys of an observation.

    hidden: units of the hidden layers. patch, depth: see `RssmConfig`. features: size F of the features of a state.
    precision: standard deviation of the decoder's distribution of vectors, in normalised symlog units; pixels have 1.
    size: size of the embedding (attribute).
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
        self.shapes = encoded_shapes(spec)
        self.images = [key for key, space in parts.items() if is_image(space)]
        self.vectors = [key for key in self.shapes if key not in self.images]
        # The attribute names of all modules are names of stored weights: do not rename them. Lists, because keys of
        # observations may contain characters that module names may not.
        self.sizes = [math.prod(self.shapes[key]) for key in self.vectors]
        self.scales = nn.ModuleList(ObservationScaler(size) for size in self.sizes)
        vectors = {key: self.shapes[key] for key in self.vectors}
        self.categories = Categories(parts, vectors)
        self.size = 0
        if self.vectors:
            self.read: nn.Module = dense(sum(self.sizes), hidden, 2)
            self.write: nn.Module = nn.Sequential(
                *dense(features, hidden, 2), nn.Linear(hidden, sum(self.sizes))
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
        """Set the scales of all vector keys from the statistics of the data."""
        for key, scaler in zip(self.vectors, self.scales, strict=True):
            for name in ("center", "scale", "low", "high"):
                getattr(scaler, name).copy_(getattr(statistics, name)[key].flatten())
        self.categories.prepare(statistics)

    def within(self, other: EncoderDecoder) -> bool:
        """Return True if the other one has the same categories and represents the range of this one's data."""
        if not torch.equal(self.categories.group, other.categories.group):
            return False
        pairs = zip(self.scales, other.scales, strict=True)
        return all(
            cast("ObservationScaler", scaler).within(cast("ObservationScaler", other_scaler))
            for scaler, other_scaler in pairs
        )

    def encode(self, observation: Observation) -> Tensor:
        """Encode an observation, key -> (N, *O), to an embedding (N, size)."""
        parts = []
        if self.vectors:
            parts.append(self.read(self._squashed(observation)))
        parts += [
            encoder(observation[key]) for key, encoder in zip(self.images, self.eyes, strict=True)
        ]
        return torch.cat(parts, -1)

    def decode(self, features: Tensor) -> Observation:
        """Decode features (N, F) to the most likely observation, key -> (N, *O)."""
        decoded: Observation = {}
        if self.vectors:
            written = self.write(features)
            likely = self.categories.most_likely(written) if len(self.categories) else written
            is_number = (self.categories.group < 0).split(self.sizes)
            parts = zip(
                written.split(self.sizes, -1), likely.split(self.sizes, -1), is_number, strict=True
            )
            for key, part, scaler in zip(self.vectors, parts, self.scales, strict=True):
                numbers, category, numeric = part
                values = cast("ObservationScaler", scaler).unsquash(numbers)
                values = torch.where(numeric, values, category)
                decoded[key] = values.unflatten(-1, self.shapes[key])
        for key, decoder in zip(self.images, self.pens, strict=True):
            decoded[key] = decoder(features).clamp(0.0, 1.0)
        return {key: decoded[key] for key in self.shapes}

    def vector_loss(self, features: Tensor, observation: Observation) -> Tensor:
        """Negative log-likelihood of all vector keys without constants, (N,).

        Numbers: half the squared error per variance. Categories: cross-entropy.
        """
        if not self.vectors:
            return features.new_zeros(len(features))
        written = self.write(features)
        difference = written - self._squashed(observation)
        if not len(self.categories):
            return 0.5 * (difference / self.precision).square().sum(-1)
        difference = difference.masked_fill(self.categories.group >= 0, 0.0)
        vector = torch.cat([observation[key].flatten(1) for key in self.vectors], -1)
        cross_entropy = self.categories.cross_entropy(written, vector).sum(-1)
        return 0.5 * (difference / self.precision).square().sum(-1) + cross_entropy

    def image_loss(self, features: Tensor, observation: Observation) -> Tensor:
        """Negative log-likelihood of all image keys without constants, (N,)."""
        total = features.new_zeros(len(features))
        for key, decoder in zip(self.images, self.pens, strict=True):
            difference = decoder(features) - observation[key]
            total = total + 0.5 * difference.square().flatten(1).sum(-1)
        return total

    def _squashed(self, observation: Observation) -> Tensor:
        return torch.cat(
            [
                cast("ObservationScaler", scaler).squash(observation[key].flatten(1))
                for key, scaler in zip(self.vectors, self.scales, strict=True)
            ],
            -1,
        )


class _ImageEncoder(nn.Module):
    """Image encoder: patches, convolutions of stride 2 down to about 4 x 4, and one dense layer."""

    def __init__(self, shape: Sequence[int], patch: int, depth: int, hidden: int) -> None:
        super().__init__()
        patch = _patch_side(patch, shape)
        channels, height, width = _in_patches(shape, patch)
        # Padding that completes the last row and the last column of patches.
        self.patch, self.padding = patch, (height * patch - shape[1], width * patch - shape[2])
        self.layers = nn.ModuleList()
        self.norms = nn.ModuleList()
        for index in range(_halvings(height, width)):
            wider = depth * 2**index
            self.layers.append(nn.Conv2d(channels, wider, 4, 2, 1))
            self.norms.append(nn.GroupNorm(1, wider))
            channels, height, width = wider, height // 2, width // 2
        self.last = dense(channels * height * width, hidden)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, C, height, width) in [0, 1] to (N, hidden)."""
        rows, columns = self.padding
        hidden = functional.pixel_unshuffle(
            functional.pad(image, (0, columns, 0, rows)) - 0.5, self.patch
        )
        for layer, norm in zip(self.layers, self.norms, strict=True):
            hidden = functional.silu(norm(layer(hidden)))
        embedded: Tensor = self.last(hidden.flatten(1))
        return embedded


class _ImageDecoder(nn.Module):
    """Image decoder: transposed convolutions to patches, joined and cropped to the size of the image."""

    def __init__(
        self, shape: Sequence[int], patch: int, depth: int, features: int, hidden: int
    ) -> None:
        super().__init__()
        self.patch, (_, self.height, self.width) = _patch_side(patch, shape), shape
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
        """Map (N, F) to (N, C, height, width), approximately in [0, 1]."""
        hidden = self.first(features).unflatten(-1, self.start)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            hidden = layer(functional.silu(norm(hidden)))
        whole = functional.pixel_shuffle(hidden, self.patch)
        return whole[..., : self.height, : self.width] + 0.5


def _patch_side(patch: int, shape: Sequence[int]) -> int:
    """Side of the patches of an image: small images have smaller patches, so that the convolutions have an input."""
    return min(patch, max(1, min(shape[1:]) // _MIN_SIDE))


def _in_patches(shape: Sequence[int], side: int) -> tuple[int, int, int]:
    """Shape (channels, height, width) of an image after its patches of `side` x `side` pixels became channels."""
    channels, height, width = shape
    return channels * side**2, -(-height // side), -(-width // side)


def _halvings(height: int, width: int) -> int:
    """Number of convolutions of stride 2 that reduce the shorter side to about `_MIN_SIDE`."""
    return max(1, round(math.log2(min(height, width) / _MIN_SIDE)))
