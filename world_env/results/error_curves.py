"""Open-loop errors of a twin over all dimensions, from its fidelity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from world_env.results.fidelity import Fidelity, HorizonErrors, Numbers, OpenLoopErrors

_LABELS = {
    "twin": "twin",
    "energy": "energy score, sampled predictions",
    "hold_energy": "energy score, last observation held",
    "median": "median dimension",
    "hold_last": "last observation held",
    "linear": "linear model",
}


@dataclass(frozen=True)
class ErrorCurves:
    """Open-loop errors over all dimensions by the number of steps.

    series: name -> errors at `steps`: "twin", "hold_last", "linear", "median" (median dimension of each step), "worst"
        (dimension with the largest error at the last step), "energy" and "hold_energy" (energy scores).
    worst_name: name of the dimension of "worst". trusted: trusted horizon in steps; None: not measured.
    sampled: (steps, energy score, that of the last observation held) at the last step with both; None: without.
    """

    steps: list[int]
    unit: str
    series: dict[str, Numbers]
    worst_name: str = ""
    trusted: int | None = None
    sampled: tuple[int, float, float] | None = None

    def label(self, name: str) -> str:
        """Label of one series."""
        if name == "worst":
            return f"worst at {self.steps[-1]} steps: {self.worst_name}"
        return _LABELS[name]


def error_curves(fidelity: Fidelity) -> ErrorCurves | None:
    """Open-loop errors by the number of steps; None where they were not measured."""
    curve = fidelity.open_loop
    if fidelity.horizons is not None:
        return _by_dimension(fidelity.horizons, curve)
    if curve is None:
        return None
    series = {
        "twin": curve.error,
        "energy": curve.energy,
        "hold_energy": curve.hold_energy,
        "hold_last": curve.hold_last,
    }
    known = {name: values for name, values in series.items() if values}
    steps = list(range(1, len(curve.error) + 1))
    return ErrorCurves(steps, curve.unit, known, sampled=_sampled(curve))


def _by_dimension(horizons: HorizonErrors, curve: OpenLoopErrors | None) -> ErrorCurves:
    found = horizons.observation
    last = [math.inf if dimension[-1] is None else dimension[-1] for dimension in found.error]
    worst = last.index(max(last))
    series = {
        "twin": _over_dimensions(found.error),
        "median": [_median(step) for step in zip(*found.error, strict=True)],
        "worst": found.error[worst],
        "hold_last": _over_dimensions(found.hold_last),
        "linear": _over_dimensions(found.linear or []),
    }
    fewest = {"median": 3, "worst": 2}
    known = {
        name: values
        for name, values in series.items()
        if values and len(found.names) >= fewest.get(name, 1)
    }
    trusted = horizons.trusted_horizon
    name = found.names[worst]
    return ErrorCurves(found.steps, found.unit, known, name, trusted, _sampled(curve))


def _sampled(curve: OpenLoopErrors | None) -> tuple[int, float, float] | None:
    if curve is None:
        return None
    pairs = enumerate(zip(curve.energy, curve.hold_energy, strict=False), 1)
    known = [(i, mine, held) for i, (mine, held) in pairs if mine is not None and held is not None]
    return known[-1] if known else None


def _over_dimensions(dimensions: Sequence[Numbers]) -> Numbers:
    """Root mean square over the dimensions of each step; None where one of them is undefined."""
    found: Numbers = []
    for step in zip(*dimensions, strict=True):
        known = [value for value in step if value is not None]
        whole = len(known) == len(step)
        found.append(math.hypot(*known) / math.sqrt(len(known)) if whole else None)
    return found


def _median(values: Sequence[float | None]) -> float | None:
    middle = median(math.inf if value is None else value for value in values)
    return middle if math.isfinite(middle) else None
