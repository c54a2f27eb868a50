"""Tolerant access to the fidelity of a twin: any part may be missing, null or of another type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from statistics import median
from typing import Any

from world_env.types import JSON

DASH = "–"  # noqa: RUF001


def at(tree: Any, *path: str) -> Any:
    """Entry of nested dicts at the end of a path; None where it is missing."""
    for name in path:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def number(value: Any) -> float | None:
    """A finite number as a float, else None."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # strict JSON holds integers of any size
        return None


def numbers(values: Any) -> list[float | None]:
    """Finite numbers of a list, None in the place of anything else; a single number becomes a list of one."""
    if isinstance(values, list | tuple):
        return [number(value) for value in values]
    return [] if number(values) is None else [number(values)]


def interval(low_high: Any) -> tuple[float, float] | None:
    """Bounds (low, high) of an interval; None unless both are finite."""
    ends = numbers(low_high)
    low, high = ends if len(ends) == 2 else (None, None)
    return None if low is None or high is None else (low, high)


def rows_of(values: Any) -> list[JSON]:
    """Dicts of a list; other entries are skipped."""
    return (
        [row for row in values if isinstance(row, dict)] if isinstance(values, list | tuple) else []
    )


def show(value: Any) -> str:
    """Format a number with at least three significant digits; a dash for anything else."""
    known = number(value)
    if known is None:
        return DASH
    if known.is_integer() or abs(known) >= 1000:
        return f"{known:,.0f}"
    return f"{known:.1f}" if abs(known) >= 100 else f"{known:.3g}"


def percent(share: Any) -> str:
    """Format a share in 0..1 as percent; a dash for anything else."""
    known = number(share)
    return DASH if known is None else f"{show(round(100 * known, 1) + 0.0)} %"


def error_curves(fidelity: Any) -> JSON | None:
    """Open-loop errors by the number of steps; None where they were not measured.

    Returns "horizon" (steps), "twin" and "hold_last" (root mean square errors over all dimensions, in "unit").
    Errors by dimension add "linear", "median" (median dimension of each step), "worst" (dimension with the largest
    error at the last step, named by "worst_name") and "trusted" (trusted horizon in steps). Without them, a twin that
    samples its predictions adds "energy" and "hold_energy" (energy scores). "drawn": see `drawn`.
    """
    tree = at(fidelity, "horizons", "observation")
    steps, error = numbers(at(tree, "steps")), _by_dimension(at(tree, "error"))
    if not error or None in steps or any(len(dimension) != len(steps) for dimension in error):
        return _open_loop(at(fidelity, "open_loop"))
    names = at(tree, "names")
    named = isinstance(names, list | tuple) and len(names) == len(error)
    last = [math.inf if dimension[-1] is None else dimension[-1] for dimension in error]
    worst = last.index(max(last))
    return {
        "horizon": [int(step) for step in steps if step is not None],
        "twin": _over_dimensions(error),
        "hold_last": _over_dimensions(_by_dimension(at(tree, "hold_last"))),
        "linear": _over_dimensions(_by_dimension(at(tree, "linear"))),
        "median": [_median(step) for step in zip(*error, strict=True)] if len(error) > 2 else [],
        "worst": error[worst] if len(error) > 1 else [],
        "worst_name": str(names[worst]) if named else str(worst),
        "unit": str(at(tree, "unit") or ""),
        "trusted": number(at(fidelity, "horizons", "trusted_horizon")),
        "drawn": drawn(at(fidelity, "open_loop")),
    }


def _open_loop(curve: Any) -> JSON | None:
    error = numbers(at(curve, "error"))
    if not error:
        return None
    return {
        "horizon": list(range(1, len(error) + 1)),
        "twin": error,
        "hold_last": numbers(at(curve, "hold_last")),
        "energy": numbers(at(curve, "energy")),
        "hold_energy": numbers(at(curve, "hold_energy")),
        "unit": str(at(curve, "unit") or ""),
        "drawn": drawn(curve),
    }


def drawn(curve: Any) -> JSON | None:
    """{"steps", "energy", "hold_energy"} at the last step with both energy scores; None without such a step."""
    pairs = zip(numbers(at(curve, "energy")), numbers(at(curve, "hold_energy")), strict=False)
    known = [(i + 1, *pair) for i, pair in enumerate(pairs) if None not in pair]
    return dict(zip(("steps", "energy", "hold_energy"), known[-1], strict=True)) if known else None


def _by_dimension(values: Any) -> list[list[float | None]]:
    """One list for each dimension; empty unless all have the same length."""
    found = [numbers(row) for row in values] if isinstance(values, list | tuple) else []
    return found if found and found[0] and len({len(row) for row in found}) == 1 else []


def _over_dimensions(dimensions: list[list[float | None]]) -> list[float | None]:
    """Root mean square over the dimensions of each step; None where one of them is not finite."""
    return [_root_mean_square(step) for step in zip(*dimensions, strict=True)]


def _root_mean_square(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.hypot(*known) / math.sqrt(len(known)) if len(known) == len(values) else None


def _median(values: Sequence[float | None]) -> float | None:
    ordered = median(math.inf if value is None else value for value in values)
    return ordered if math.isfinite(ordered) else None
