"""What the speed scripts share: alternating rounds, time spent inside a function, memory, and results files."""

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
"""Works for about so many seconds and returns how many steps (or operations) a second it did."""


def rate(step: Callable[[], Any], amount: float, seconds: float) -> float:
    """How much a second `step` does, `amount` a call, over at least one call and about `seconds`."""
    calls, began = 0, time.perf_counter()
    while True:
        step()
        calls += 1
        spent = time.perf_counter() - began
        if spent >= seconds:
            return amount * calls / spent


def alternate(measures: Sequence[Measure], *, repeats: int, seconds: float) -> list[list[float]]:
    """Each measure's rates, `repeats` each: round by round, so that a slow minute of the machine slows all alike."""
    rates: list[list[float]] = [[] for _ in measures]
    for _ in range(repeats):
        for place, measure in enumerate(measures):
            rates[place].append(measure(seconds))
    return rates


def median(values: Sequence[float]) -> float:
    """The middle value, to four digits: more would be noise."""
    return float(f"{statistics.median(values):.4g}")


def device_name(device: str) -> str:
    """What results call a device of torch."""
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
    """Adds up the time inside functions of others while they run, wherever they are called from.

    spent: name -> time. A function that is never called is there with 0 calls.
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
    """Memory of this process now, MB; its peak where the system does not tell."""
    pages = Path("/proc/self/statm")
    if not pages.is_file():
        return peak_mb()
    held = int(pages.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return round(held / 1e6, 1)


def peak_mb() -> float:
    """The most memory that this process ever held, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes everywhere but on macOS.
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6, 1)


def append(path: Path, benchmark: str, row: JSON, made: JSON) -> None:
    """Add one row, with its own commit and date, to a results file; `made` is the head of the file."""
    stored = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    row = row | {name: made[name] for name in ("commit", "date")}
    write_json(path, {"benchmark": benchmark} | made | {"rows": [*stored, row]})
