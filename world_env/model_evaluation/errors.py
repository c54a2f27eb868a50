"""Errors and scores of predictions, in standard deviations of the data."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from world_env.batch import Observation, unpacked
from world_env.data.dataset import EncodedEpisodes
from world_env.data.statistics import floored_deviation

_MAX_IMAGES = 2_000


def energy_score(one: Tensor, other: Tensor, between: Tensor) -> Tensor:
    """An unbiased estimate of E|X - y| - E|X - X'| / 2 from two draws: how far each is from y, and from one another.

    Proper: in the mean, who says what may be scores best. Squared errors prefer the mean of all that may be, even where
    nothing ever is like it. Distances may be passed through a function such as d / (1 + d) before; their scores may not
    [Gneiting and Raftery 2007, section 5]. Never below 0.
    """
    return (one + other - between) / 2.0


def scales_of(data: EncodedEpisodes) -> Observation:
    """Key -> (D,) standard deviations of the data: the unit of `row_errors`.

    Never below a share of the range, and 1 for a constant column: a unit that measures nothing but rounding would make
    its column the only one that counts.
    """
    return {
        key: floored_deviation(unpacked(value[:: _stride(value)]).flatten(1))
        for key, value in data.observations.items()
    }


def _stride(value: Tensor) -> int:
    """Every how many rows are looked at: of pixels, a few thousand say it."""
    return 1 if value.dtype != torch.uint8 else max(1, len(value) // _MAX_IMAGES)


def deviations(predicted: Observation, real: Observation, scale: Observation) -> Tensor:
    """(B, D) differences of all keys' dimensions, one key after another, in `scale` units."""
    return torch.cat([(predicted[key] - real[key]).flatten(1) / scale[key] for key in scale], -1)


def row_errors(predicted: Observation, real: Observation, scale: Observation) -> Tensor:
    """(B,) root mean square over the dimensions of each row, in `scale` units, all keys alike."""
    return over_keys(deviations(predicted, real, scale).square(), scale).sqrt()


def over_keys(squared: Tensor, scale: Observation) -> Tensor:
    """(..., D) of all keys' dimensions to (...): the mean of each key's mean, or pixels would drown numbers."""
    parts = squared.split([unit.numel() for unit in scale.values()], -1)
    return torch.stack([part.mean(-1) for part in parts], -1).mean(-1)


def significant(values: Iterable[float]) -> list[float | None]:
    """Numbers at five significant digits, as strict JSON holds them; None for what is no finite number."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]
