"""What a twin stores of its fidelity, read without trust: any part may be missing, null or of another type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from statistics import median
from typing import Any

from world_env.types import JSON

DASH = "–"  # noqa: RUF001


def at(tree: Any, *path: str) -> Any:
    """The entry at the end of the path; None where there is none."""
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
    """A list of numbers, None where one is none; a lone number is a list of one, anything else is empty."""
    if isinstance(values, list | tuple):
        return [number(value) for value in values]
    return [] if number(values) is None else [number(values)]


def interval(low_high: Any) -> tuple[float, float] | None:
    """Both ends, low first; None unless both are finite."""
    ends = numbers(low_high)
    low, high = ends if len(ends) == 2 else (None, None)
    return None if low is None or high is None else (low, high)


def rows_of(values: Any) -> list[JSON]:
    """The objects of a list."""
    return (
        [row for row in values if isinstance(row, dict)] if isinstance(values, list | tuple) else []
    )


def show(value: Any) -> str:
    """A number with as many decimals as help, or a dash."""
    known = number(value)
    if known is None:
        return DASH
    if known.is_integer() or abs(known) >= 1000:
        return f"{known:,.0f}"
    return f"{known:.1f}" if abs(known) >= 100 else f"{known:.3g}"


def percent(share: Any) -> str:
    """A share in 0..1 as percent, or a dash."""
    known = number(share)
    return DASH if known is None else f"{show(round(100 * known, 1) + 0.0)} %"


def error_curves(fidelity: Any) -> JSON | None:
    """Errors of rollouts that never see reality again, by the number of steps; None where they were not measured.

    Returns "horizon" (steps), "twin" and "hold_last" (root mean square errors over all dimensions, in "unit"). Where
    errors were measured by dimension, also "linear", "median" (of the dimensions, step by step), "worst" (the
    dimension with the largest last error, called "worst_name") and "trusted" (steps); else, of a twin that keeps to one
    of many futures, "energy" and "hold_energy". Of such a twin always "drawn": the last of these two, and "steps".
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
        "twin": _together(error),
        "hold_last": _together(_by_dimension(at(tree, "hold_last"))),
        "linear": _together(_by_dimension(at(tree, "linear"))),
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
    """{"steps", "energy", "hold_energy"} after the last step that has both energy scores; None where none has."""
    pairs = zip(numbers(at(curve, "energy")), numbers(at(curve, "hold_energy")), strict=False)
    known = [(i + 1, *pair) for i, pair in enumerate(pairs) if None not in pair]
    return dict(zip(("steps", "energy", "hold_energy"), known[-1], strict=True)) if known else None


def _by_dimension(values: Any) -> list[list[float | None]]:
    """One list of equal length a dimension; empty where they are not."""
    found = [numbers(row) for row in values] if isinstance(values, list | tuple) else []
    return found if found and found[0] and len({len(row) for row in found}) == 1 else []


def _together(dimensions: list[list[float | None]]) -> list[float | None]:
    """Root mean square over the dimensions of each step; None where one of them left the numbers."""
    return [_root_mean_square(step) for step in zip(*dimensions, strict=True)]


def _root_mean_square(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.hypot(*known) / math.sqrt(len(known)) if len(known) == len(values) else None


def _median(values: Sequence[float | None]) -> float | None:
    ordered = median(math.inf if value is None else value for value in values)
    return ordered if math.isfinite(ordered) else None
