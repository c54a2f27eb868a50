"""Robust statistics of the columns of a data set."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from world_env.data.episode import Episode
from world_env.data_range import DataRange
from world_env.errors import DataError
from world_env.spaces import is_image, observation_spaces
from world_env.spec import WorldSpec

if TYPE_CHECKING:
    from world_env.data.dataset import EncodedEpisodes

_RANGE_FLOOR = 0.05
"""No scale is below this share of the column's range: rare spikes stay within 1 / this."""


_NORMAL_WIDTHS = {0.25: 1.349, 0.05: 3.290, 0.01: 4.653}
"""Standard deviations between a normal law's quantile at this share and its mirror image."""
_SPREAD_BOUNDS = (0.5, 2.0)
"""How far the standard deviation is believed, in units of what the quantiles say."""
_QUANTILE_ROWS = 100_000
_SPIKE_RATIO = 3.0
"""Scale in units of the bulk's spread beyond which a column counts as rarely spiking."""
MIN_SPREAD = 1e-6
"""A range below this share of the values' size is rounding, not information."""


def robust_scale(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(center, scale) of (N, D) columns, (D,) float64 each, scale > 0.

    The scale is the standard deviation where the quantiles agree with it, never below a share of
    the range, so that a spike stays a moderate number; 1 for constant columns.
    """
    low, high = columns.min(0).astype(np.float64), columns.max(0).astype(np.float64)
    center, spread = _bulk(columns)
    scale = np.maximum(spread, _RANGE_FLOOR * (high - low))
    return center, np.where(_is_constant(low, high), 1.0, scale)


def floored_deviation(columns: Tensor) -> Tensor:
    """(D,) standard deviations of (N, D) columns, with `robust_scale`'s floor; 1 for constant columns."""
    low, high = columns.amin(0), columns.amax(0)
    # One row has no deviation, and is constant.
    scale = columns.std(0, correction=min(1, len(columns) - 1)).maximum(_RANGE_FLOOR * (high - low))
    constant = torch.from_numpy(_is_constant(low.numpy(force=True), high.numpy(force=True)))
    constant = constant.to(scale.device)
    return scale.where(~constant, torch.ones_like(scale))


def _bulk(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(median, spread) of (N, D) columns, (D,) each, blind to what happens in under 1 % of rows."""
    rows = columns[:: max(1, len(columns) // _QUANTILE_ROWS)].astype(np.float64)
    shares = [share for low in _NORMAL_WIDTHS for share in (low, 1.0 - low)]
    center, *bounds = np.quantile(rows, [0.5, *shares], axis=0)
    spread = np.max(
        [
            (high - low) / width
            for low, high, width in zip(
                bounds[::2], bounds[1::2], _NORMAL_WIDTHS.values(), strict=True
            )
        ],
        axis=0,
    )
    deviation = columns.std(0, dtype=np.float64)
    return center, deviation.clip(*(bound * spread for bound in _SPREAD_BOUNDS))


def column_notes(encoded: EncodedEpisodes, *, without: Collection[str] = ()) -> list[str]:
    """One sentence for each column that a fit should be warned of: constant, or rarely spiking.

    without: keys of which something else is said.
    """
    columns = {key: value.flatten(1).numpy() for key, value in encoded.observations.items()
               if key not in without and is_vector(encoded.codec.keys[key])}  # fmt: skip
    usual, _ = encoded.rewards_by_end()
    columns["reward"] = usual[:, None].numpy()
    return [f"{name} {text}" for _, name, text in column_traits(columns)]


def column_traits(columns: Mapping[str, np.ndarray]) -> list[tuple[str, str, str]]:
    """("constant" or "spikes", column, what to say of it) of (N, D) columns where either is true."""
    traits = []
    for key, values in columns.items():
        low, high = values.min(0).astype(np.float64), values.max(0).astype(np.float64)
        constant = _is_constant(low, high)
        _, scale = robust_scale(values)
        _, bulk = _bulk(values)
        for i in range(values.shape[1]):
            name = key if values.shape[1] == 1 else f"{key}[{i}]"
            if constant[i]:
                text = f"is constant at {low[i]:.4g}: there is nothing in it to learn"
                traits.append(("constant", name, text))
            elif scale[i] > _SPIKE_RATIO * bulk[i]:
                text = (
                    f"spikes rarely: it reaches {low[i]:.4g} to {high[i]:.4g} while nearly all of it varies by "
                    f"{bulk[i]:.4g}"
                )
                traits.append(("spikes", name, text))
    return traits


def data_range(
    episodes: Sequence[Episode],
    spec: WorldSpec,
    *,
    ends: tuple[list[float | None], list[float | None]] | None = None,
) -> DataRange:
    """What the episodes showed, in the environment's own units, with `ends` as given. Raises DataError if none."""
    if not episodes:
        raise DataError("there is no episode to take a range from: collect some first")
    shown = {}
    for key, space in observation_spaces(spec.observation_space).items():
        if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
            shown[key] = _bounds([episode.observation_columns()[key] for episode in episodes])
    rewards = np.concatenate([episode.rewards for episode in episodes])
    actions = spec.action_space
    open_ended = isinstance(actions, spaces.Box) and not actions.is_bounded()
    return DataRange(
        observation=shown,
        reward=(float(rewards.min()), float(rewards.max())),
        action=_bounds([episode.actions for episode in episodes]) if open_ended else None,
        ends=ends,
    )


def _bounds(columns: Sequence[np.ndarray]) -> tuple[list[float], list[float]]:
    """Flat (low, high) over the rows of all columns (rows, ...)."""
    flat = [column.reshape(len(column), -1) for column in columns]
    low = np.min([values.min(0) for values in flat], axis=0)
    high = np.max([values.max(0) for values in flat], axis=0)
    return low.astype(float).tolist(), high.astype(float).tolist()


def is_vector(space: spaces.Space) -> bool:
    """Whether a space is a Box of numbers and no image."""
    return isinstance(space, spaces.Box) and not is_image(space)


def _is_constant(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return high - low <= MIN_SPREAD * np.maximum(np.abs(low), np.abs(high))
