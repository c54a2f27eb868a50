"""Check of angles that wrap, for example from pi to -pi."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from world_env.data.angles import WrappedColumn, wrapped_columns
from world_env.data.episode import Episode
from world_env.data.statistics import column_name, counted, is_vector
from world_env.data.validation.issue import LintIssue, number_of
from world_env.spaces import observation_spaces
from world_env.spec import WorldSpec


def wrapped_angles(episodes: Mapping[int, Episode], spec: WorldSpec) -> Iterator[LintIssue]:
    """Find columns that wrap: a note if a twin encodes them, a warning if their jumps are too few or irregular."""
    columns = wrapped_columns(episodes.values(), spec)
    parts = observation_spaces(spec.observation_space).values()
    total = sum(math.prod(space.shape or (1,)) for space in parts if is_vector(space))
    certain = [each for each in columns if each.certain]
    suspected = [each for each in columns if not each.certain]
    if certain:
        text = counted(
            [_name(each) for each in certain],
            total,
            "is an angle that wraps",
            "are angles that wrap",
        )
        message = f"{text} ({_detail(certain)}): a twin encodes {_it(certain)} as cosine and sine"
        yield LintIssue(
            check="wrapped_angle", severity="note", message=message, where=_name(certain[0])
        )
    if suspected:
        text = counted(
            [_name(each) for each in suspected],
            total,
            "seems to be an angle that wraps",
            "seem to be angles that wrap",
        )
        message = (
            f"{text} ({_detail(suspected)}), but the jumps are too few or too irregular to encode {_it(suspected)} as "
            "such: a twin may predict values between both ends there. Return cosine and sine instead, or collect more "
            "episodes that cross the ends."
        )
        yield LintIssue(
            check="wrapped_angle", severity="warning", message=message, where=_name(suspected[0])
        )


def _name(column: WrappedColumn) -> str:
    return column_name(column.key, column.angle.column, column.size)


def _detail(columns: list[WrappedColumn]) -> str:
    first = columns[0]
    low, high = first.angle.low, first.angle.low + first.angle.period
    text = f"from {high:.4g} to {low:.4g} and back, {number_of(first.jumps, 'jump')}"
    return text if len(columns) == 1 else f"{_name(first)} {text}"


def _it(columns: list[WrappedColumn]) -> str:
    return "it" if len(columns) == 1 else "them"
