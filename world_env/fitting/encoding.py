"""Encoding of the observations of a fit: angles and offsets, from the data or from another twin."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

from world_env.data.angles import find_angles, merged_angles
from world_env.data.episode import Episode
from world_env.data.float32_offsets import float32_offsets
from world_env.spec import WorldSpec
from world_env.twin.twin import Twin

_log = logging.getLogger(__name__)


def encoding_of(
    episodes: Sequence[Episode],
    spec: WorldSpec,
    warm_start: Twin | None = None,
    encoding: Twin | None = None,
) -> tuple[WorldSpec, dict[str, list[float]]]:
    """Return the spec with its angles, and the offsets of `DataRange.offset`.

    warm_start: older twin, whose angles and offsets are kept; the data may add angles.
    encoding: twin whose encoding is taken unchanged.
    """
    if encoding is not None:
        return dataclasses.replace(spec, angles=encoding.spec.angles), _offsets(encoding)
    known = (
        spec.angles if warm_start is None else merged_angles(warm_start.spec.angles, spec.angles)
    )
    spec = dataclasses.replace(spec, angles=merged_angles(known, find_angles(episodes, spec)))
    for key, angles in spec.angles.items():
        columns = ", ".join(str(angle.column) for angle in angles)
        _log.info("observation %r: columns that wrap are encoded as angles: %s", key, columns)
    if warm_start is not None and warm_start.spec.angles == spec.angles:
        return spec, _offsets(warm_start)
    return spec, float32_offsets(episodes, spec)


def _offsets(twin: Twin) -> dict[str, list[float]]:
    return {} if twin.ranges is None else twin.ranges.offset
