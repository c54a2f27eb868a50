"""Check of the resolution of observations: offsets that leave float32 too few digits for the changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from gymnasium import spaces

from world_env.data.episode import Episode
from world_env.data.statistics import column_name, counted
from world_env.data.validation.issue import LintIssue
from world_env.data.validation.regression import vector_spaces
from world_env.spec import WorldSpec

_MIN_LEVELS = 16
"""Steps of float32 that a large change of a column must have at least."""
_LARGE_CHANGE = 0.95
"""Quantile of the changes that counts as a large change."""
_MAX_EXACT = 2.0**24
"""Integers below this are exact in float32."""


def coarse_columns(episodes: Mapping[int, Episode], spec: WorldSpec) -> Iterator[LintIssue]:
    """Find columns whose changes are as small as the resolution of float32 at their values, such as timestamps."""
    found: dict[bool, dict[str, str]] = {True: {}, False: {}}
    total = 0
    for key, space in vector_spaces(spec).items():
        if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            continue
        columns = [e.observation_columns()[key].reshape(len(e) + 1, -1) for e in episodes.values()]
        is_single = columns[0].dtype.itemsize < 8
        total += columns[0].shape[1]
        values = np.concatenate(columns).astype(np.float64)
        changes = np.concatenate([np.abs(np.diff(c.astype(np.float64), axis=0)) for c in columns])
        large = np.quantile(changes, _LARGE_CHANGE, axis=0)
        large = np.where(large > 0, large, changes.max(0))
        largest = np.abs(values).max(0)
        step = np.spacing(largest.astype(np.float32)).astype(np.float64)
        exact = (values == np.floor(values)).all(0) & (largest < _MAX_EXACT)
        for i in np.flatnonzero((large > 0) & (large < _MIN_LEVELS * step) & ~exact).tolist():
            text = (
                f"values up to {largest[i]:.4g} change by {large[i]:.4g} in a step, float32 resolves "
                f"{step[i]:.4g} there"
            )
            found[is_single][column_name(key, i, values.shape[1])] = text
    for is_single, texts in found.items():
        if texts:
            first, detail = next(iter(texts.items()))
            many = counted(list(texts), total, "has a large offset", "have a large offset")
            detail = detail if len(texts) == 1 else f"for {first}, {detail}"
            do = (
                "Subtract the offset before the values are stored as float32: the lost digits cannot be restored."
                if is_single
                else "The data are float64, but policies receive the dtype of the space: subtract the offset."
            )
            yield LintIssue(
                "precision", "warning" if is_single else "note", f"{many}: {detail}. {do}", first
            )
