"""Timing for the speed scripts: alternating rounds, time inside functions, memory, and results files."""

from __future__ import annotations

import functools
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from world_env.atomic_io import write_json

JSON = dict[str, Any]
Measure = Callable[[float], float]
"""Function of a duration in seconds that returns a rate: steps or operations a second."""


def rate(step: Callable[[], Any], amount: float, seconds: float) -> float:
    """Rate of `step`, which does `amount` a call, over about `seconds` and at least one call."""
    calls, began = 0, time.perf_counter()
    while True:
        step()
        calls += 1
        spent = time.perf_counter() - began
        if spent >= seconds:
            return amount * calls / spent


def alternate(measures: Sequence[Measure], *, repeats: int, seconds: float) -> list[list[float]]:
    """Rates of all measures, `repeats` each, in alternating rounds: a slow minute of the machine affects all."""
    rates: list[list[float]] = [[] for _ in measures]
    for _ in range(repeats):
        for place, measure in enumerate(measures):
            rates[place].append(measure(seconds))
    return rates


def median(values: Sequence[float]) -> float:
    """Median with four digits."""
    return float(f"{statistics.median(values):.4g}")


def device_name(device: str) -> str:
    """Name of a torch device in the results."""
    found = torch.device(device)
    return torch.cuda.get_device_name(found) if found.type == "cuda" else platform.machine()


@dataclass
class Spent:
    """Time inside one function. first: `time.perf_counter()` when it was first called."""

    seconds: float = 0.0
    calls: int = 0
    first: float | None = None


@dataclass
class Watch:
    """Sum of the time inside functions of other modules.

    spent: name -> time. A function without calls has 0 calls.
    """

    spent: dict[str, Spent] = field(default_factory=dict)

    @contextmanager
    def of(self, owner: Any, attribute: str, name: str) -> Iterator[None]:
        """Within the block, calls of `owner.attribute` (a class's method or a module's function) count as `name`."""
        original = getattr(owner, attribute)
        own = attribute in vars(owner)
        spent = self.spent.setdefault(name, Spent())

        @functools.wraps(original)
        def timed(*words: Any, **named: Any) -> Any:
            began = time.perf_counter()
            if spent.first is None:
                spent.first = began
            try:
                return original(*words, **named)
            finally:
                spent.seconds += time.perf_counter() - began
                spent.calls += 1

        setattr(owner, attribute, timed)
        try:
            yield
        finally:
            if own:
                setattr(owner, attribute, original)
            else:
                delattr(owner, attribute)

    def seconds(self) -> dict[str, float]:
        """Name -> seconds so far."""
        return {name: spent.seconds for name, spent in self.spent.items()}


def resident_mb() -> float:
    """Memory of this process, MB; its peak if the system does not report it."""
    pages = Path("/proc/self/statm")
    if not pages.is_file():
        return peak_mb()
    held = int(pages.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return round(held / 1e6, 1)


def peak_mb() -> float:
    """Peak memory of this process, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes everywhere but on macOS.
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6, 1)


def append(path: Path, benchmark: str, row: JSON, made: JSON) -> None:
    """Add one row with commit and date to a results file. made: head of the file."""
    stored = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    row = row | {name: made[name] for name in ("commit", "date")}
    write_json(path, {"benchmark": benchmark} | made | {"rows": [*stored, row]})
