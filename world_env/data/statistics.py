"""Robust statistics of the columns of a data set."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from world_env.data.column_structure import column_blocks
from world_env.data.episode import Episode
from world_env.data_range import DataRange
from world_env.errors import DataError
from world_env.spaces import is_image, observation_spaces
from world_env.spec import WorldSpec

if TYPE_CHECKING:
    from world_env.data.dataset import EncodedEpisodes

_RANGE_FLOOR = 0.05
"""Smallest scale as a share of the column's range: rare outliers stay below the inverse of this in scaled units."""
_NORMAL_WIDTHS = {0.25: 1.349, 0.05: 3.290, 0.01: 4.653}
"""Share -> width between the quantiles at this share and at 1 - share, in standard deviations of a normal law."""
_SPREAD_BOUNDS = (0.5, 2.0)
"""Bounds of the standard deviation, in units of the spread by quantiles."""
_QUANTILE_ROWS = 100_000
_SPIKE_RATIO = 3.0
"""Ratio of the scale to the spread by quantiles above which a column has rare outliers."""
MIN_SPREAD = 1e-6
"""Range as a share of the largest absolute value below which a column is constant: rounding errors only."""
_NAMES_SHOWN = 3
"""Names in a message that counts several columns."""


def robust_scale(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute (center, scale) of (N, D) columns, (D,) float64 each, scale > 0.

    The center is the median. The scale is the standard deviation, limited by the spread of the quantiles and by a share
    of the range: rare outliers keep moderate scaled values. Constant columns have scale 1.
    """
    low, high = columns.min(0).astype(np.float64), columns.max(0).astype(np.float64)
    center, spread = _bulk(columns)
    scale = np.maximum(spread, _RANGE_FLOOR * (high - low))
    return center, np.where(_is_constant(low, high), 1.0, scale)


def floored_deviation(columns: Tensor) -> Tensor:
    """Standard deviations (D,) of (N, D) columns, with the lower limit of `robust_scale`; 1 for constant columns."""
    low, high = columns.amin(0), columns.amax(0)
    # One row has no standard deviation and is constant.
    scale = columns.std(0, correction=min(1, len(columns) - 1)).maximum(_RANGE_FLOOR * (high - low))
    constant = torch.from_numpy(_is_constant(low.numpy(force=True), high.numpy(force=True)))
    constant = constant.to(scale.device)
    return scale.where(~constant, torch.ones_like(scale))


def _bulk(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(median, spread) of (N, D) columns, (D,) each; values in less than 1 % of the rows have no effect."""
    parts = [_bulk_of_block(columns[:, block]) for block in column_blocks(columns.shape[1])]
    center, spread = (np.concatenate(part) for part in zip(*parts, strict=True))
    return center, spread


def _bulk_of_block(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
    """Describe constant columns and columns with rare outliers, for the warnings of a fit.

    Columns of the same kind share one note. without: keys to leave out.
    """
    columns = {key: value.flatten(1).numpy() for key, value in encoded.observations.items()
               if key not in without and is_vector(encoded.codec.keys[key])}  # fmt: skip
    for key in [key for key in columns if encoded.codec.angle_pairs(key)]:
        # An angle moves by definition, and the cosine of one that is mostly 0 has no outliers.
        angles = {i for pair in encoded.codec.angle_pairs(key) for i in pair}
        values, names = columns.pop(key), encoded.codec.column_names(key)
        columns |= {name: values[:, i : i + 1] for i, name in enumerate(names) if i not in angles}
    traits = column_traits(columns, encoded.rewards.numpy(), encoded.terminated.numpy() > 0)
    return [trait.text for trait in traits]


@dataclass(frozen=True)
class ColumnTrait:
    """Constant columns, or columns with rare outliers, of a data set.

    kind: "constant" or "spikes". first: name of the first such column. text: one sentence about all of them.
    """

    kind: str
    first: str
    text: str


def column_traits(
    columns: Mapping[str, np.ndarray], rewards: np.ndarray, terminated: np.ndarray
) -> list[ColumnTrait]:
    """Find constant columns and columns with rare outliers in observations, (N, D) by key, and rewards (N,).

    All observation columns of a kind are one trait; the rewards have traits of their own. Rewards of terminations,
    terminated (N,) bool, are no outliers, and rewards that differ there are not constant.
    """
    total = sum(values.shape[1] for values in columns.values())
    usual = rewards if terminated.all() else rewards[~terminated]
    found = _traits({"reward": usual[:, None]}, 1)
    if not _is_constant(rewards.min().astype(np.float64), rewards.max().astype(np.float64)):
        found = [trait for trait in found if trait.kind != "constant"]
    return _traits(columns, total) + found


def _traits(columns: Mapping[str, np.ndarray], total: int) -> list[ColumnTrait]:
    constant: dict[str, str] = {}
    spikes: dict[str, str] = {}
    for key, values in columns.items():
        low, high = values.min(0).astype(np.float64), values.max(0).astype(np.float64)
        is_constant = _is_constant(low, high)
        _, scale = robust_scale(values)
        _, bulk = _bulk(values)
        for i in np.flatnonzero(is_constant).tolist():
            constant[column_name(key, i, values.shape[1])] = f"{low[i]:.4g}"
        for i in np.flatnonzero(~is_constant & (scale > _SPIKE_RATIO * bulk)).tolist():
            reach = f"values from {low[i]:.4g} to {high[i]:.4g}, typical spread {bulk[i]:.4g}"
            spikes[column_name(key, i, values.shape[1])] = reach
    found = []
    if constant:
        first, value = next(iter(constant.items()))
        text = counted(list(constant), total, f"is constant at {value}", "are constant")
        holds = "it holds" if len(constant) == 1 else "they hold"
        found.append(ColumnTrait("constant", first, f"{text}: {holds} no information"))
    if spikes:
        first, reach = next(iter(spikes.items()))
        text = counted(list(spikes), total, "has rare outliers", "have rare outliers")
        of = "" if len(spikes) == 1 else f"{first} has "
        found.append(ColumnTrait("spikes", first, f"{text}: {of}{reach}"))
    return found


def counted(
    names: Sequence[str], total: int, singular: str, plural: str, *, noun: str = "columns"
) -> str:
    """One sentence about one name, or about several with their number and the first three.

    "a[1] is constant", or "2,812 of 2,835 columns are constant (first: a[0], a[1], a[2])". total: names in all.
    """
    if len(names) == 1:
        return f"{names[0]} {singular}"
    first = ", ".join(names[:_NAMES_SHOWN])
    return f"{len(names):,} of {total:,} {noun} {plural} (first: {first})"


def column_name(key: str, index: int, size: int) -> str:
    """Name of column `index` of a key with `size` columns."""
    return key if size == 1 else f"{key}[{index}]"


def data_range(
    episodes: Sequence[Episode],
    spec: WorldSpec,
    *,
    ends: tuple[list[float | None], list[float | None]] | None = None,
) -> DataRange:
    """Ranges of the observations, rewards and unbounded actions of the episodes, in the units of the environment.

    ends: hard termination bounds to store with the ranges.

    Raises DataError without episodes.
    """
    if not episodes:
        raise DataError("no episodes to take ranges from: expected at least 1, collect some first")
    observation = {}
    for key, space in observation_spaces(spec.observation_space).items():
        if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
            observation[key] = _bounds([episode.observation_columns()[key] for episode in episodes])
    rewards = np.concatenate([episode.rewards for episode in episodes])
    actions = spec.action_space
    unbounded = isinstance(actions, spaces.Box) and not actions.is_bounded()
    return DataRange(
        observation=observation,
        reward=(float(rewards.min()), float(rewards.max())),
        action=_bounds([episode.actions for episode in episodes]) if unbounded else None,
        ends=ends,
    )


def _bounds(columns: Sequence[np.ndarray]) -> tuple[list[float], list[float]]:
    """Flat (low, high) over the rows of all columns (rows, ...)."""
    flat = [column.reshape(len(column), -1) for column in columns]
    low = np.min([values.min(0) for values in flat], axis=0)
    high = np.max([values.max(0) for values in flat], axis=0)
    return low.astype(float).tolist(), high.astype(float).tolist()


def is_vector(space: spaces.Space) -> bool:
    """Whether a space is a Box that is not an image."""
    return isinstance(space, spaces.Box) and not is_image(space)


def _is_constant(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return high - low <= MIN_SPREAD * np.maximum(np.abs(low), np.abs(high))
