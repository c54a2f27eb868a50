"""Numbers, shares and intervals as text; a dash where one is unknown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

MAX_DIMENSIONS_SHOWN = 20
"""Observation dimensions up to which a message lists all their errors."""
DASH = "–"  # noqa: RUF001


def show(value: float | None) -> str:
    """Format a number with at least three significant digits; a dash for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return DASH
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def signed(value: float | None) -> str:
    """Format a number with its sign."""
    return ("+" if value is not None and value > 0 else "") + show(value)


def percent(share: float | None) -> str:
    """Format a share in 0..1 as percent; a dash for None."""
    return DASH if share is None else f"{show(round(100 * share, 1) + 0.0)} %"


def error_per_dimension(errors: Sequence[float | None]) -> str:
    """One line about the one-step errors of the observation dimensions; of many, the median and the largest error."""
    if len(errors) <= MAX_DIMENSIONS_SHOWN:
        return f"one-step error per dimension: {', '.join(map(show, errors))}"
    known = [math.inf if error is None else error for error in errors]
    worst = max(range(len(known)), key=known.__getitem__)
    return (
        f"one-step error per dimension: median {show(statistics.median(known))}, largest {show(known[worst])} "
        f"(dimension {worst} of {len(errors):,})"
    )


def with_interval(
    value: float | None,
    interval: tuple[float, float] | None,
    form: Callable[[float | None], str] = show,
) -> str:
    """Format a number with its interval, "500 [499, 500]"; without an interval the number alone."""
    if value is None or interval is None:
        return form(value)
    return f"{form(value)} [{form(interval[0])}, {form(interval[1])}]"
