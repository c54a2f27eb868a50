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
    """Unbiased estimate of the energy score E|X - y| - E|X - X'| / 2 from two draws. >= 0.

    one, other: distances of the draws from y. between: distance of the draws from each other. The energy score is
    proper: its expectation is smallest for the true distribution, while squared errors prefer the mean of the
    distribution. Distances may be transformed first, for example by d / (1 + d); scores may not [Gneiting and Raftery
    2007, section 5].
    """
    return (one + other - between) / 2.0


def scales_of(data: EncodedEpisodes) -> Observation:
    """Key -> (D,) standard deviations of the data: the unit of `errors_per_row`.

    At least a share of the data range, and 1 for constant columns: otherwise rounding errors of one column could
    dominate the error.
    """
    return {
        key: floored_deviation(unpacked(value[:: _stride(value)]).flatten(1))
        for key, value in data.observations.items()
    }


def _stride(value: Tensor) -> int:
    """Stride over the rows: a few thousand are enough for the deviations of pixels."""
    return 1 if value.dtype != torch.uint8 else max(1, len(value) // _MAX_IMAGES)


def deviations(predicted: Observation, real: Observation, scale: Observation) -> Tensor:
    """(B, D) differences over the dimensions of all keys in order, in units of `scale`."""
    return torch.cat([(predicted[key] - real[key]).flatten(1) / scale[key] for key in scale], -1)


def errors_per_row(predicted: Observation, real: Observation, scale: Observation) -> Tensor:
    """(B,) root mean square over the dimensions of each row, in units of `scale`; all keys have the same weight."""
    return over_keys(deviations(predicted, real, scale).square(), scale).sqrt()


def over_keys(squared: Tensor, scale: Observation) -> Tensor:
    """(..., D) to (...): mean over the keys of each key's mean. Otherwise images would outweigh vectors."""
    parts = squared.split([unit.numel() for unit in scale.values()], -1)
    return torch.stack([part.mean(-1) for part in parts], -1).mean(-1)


def significant(values: Iterable[float]) -> list[float | None]:
    """Numbers rounded to five significant digits, for strict JSON; None for NaN and infinite values."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]
