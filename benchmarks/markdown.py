"""Markdown of the result tables: one table writer, and the notation of numbers that all tables share."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence

from scipy.stats import t as student_t

from world_env.types import JSON

NOT_MEASURED = "Not measured yet."


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown table; an empty string without rows.

    Raises ValueError if a row has another number of cells than the header.
    """
    lines = [list(header), ["---"] * len(header), *map(list, rows)]
    for line in lines:
        if len(line) != len(header):
            raise ValueError(f"a row has {len(line)} cells, expected {len(header)}: {line}")
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if len(lines) > 2 else ""


def paragraphs(*parts: str) -> str:
    """Parts of a page separated by empty lines; empty parts are skipped."""
    return "\n\n".join(part for part in parts if part)


def grouped(rows: Iterable[JSON], key: Callable[[JSON], tuple]) -> dict[tuple, list[JSON]]:
    """Rows by key, in the order of their first appearance."""
    groups: dict[tuple, list[JSON]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def mean_of(rows: Iterable[JSON], name: str = "real_mean") -> float:
    """Mean of one field over rows."""
    return statistics.fmean(row[name] for row in rows)


def judging_steps(rows: Iterable[JSON]) -> str:
    """Real steps of the final evaluation, mean over rows; an empty text where the rows do not hold them."""
    counts = [row.get("real_steps_by_purpose", {}).get("judge") for row in rows]
    known = [count for count in counts if count is not None]
    return f"{statistics.fmean(known):,.0f}" if known else ""


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % t-interval of the mean over seeds; None for fewer than two seeds."""
    if len(values) < 2:
        return None
    half = student_t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    middle = statistics.fmean(values)
    return middle - half, middle + half


def mean_interval(values: Sequence[float], digits: int = 1) -> str:
    """Mean over seeds with its 95 % t-interval, such as "498.8 [496.6, 501.0]"."""
    interval = t_interval(values)
    shown = "one seed" if interval is None else ", ".join(f"{v:,.{digits}f}" for v in interval)
    return f"{statistics.fmean(values):,.{digits}f} [{shown}]"


def by_seed(rows: Iterable[JSON], name: str = "real_mean", form: str = ",.1f") -> str:
    """One field seed by seed, such as "0: 496.0, 1: 498.0"."""
    return ", ".join(f"{row['seed']}: {row[name]:{form}}" for row in rows)


def commits(rows: Iterable[JSON], digits: int = 8) -> str:
    """Commits of rows, shortened, without repetition."""
    return ", ".join(sorted({f"`{row['commit'][:digits]}`" for row in rows}))


def source(tree: JSON, made: str | None = None) -> str:
    """Sentence with commit, machine and command of a results file.

    made: the commits, if the rows have their own.
    """
    commit = made or f"`{tree['commit'][:12]}` ({tree['date']})"
    return f"Measured at {commit} on {tree['machine']} by `{tree['command'].partition(' --')[0]}`."


def predicted_return(row: JSON) -> str:
    """Cell of a row's predicted return: mean [interval]."""
    predicted = row["predicted_return"]
    low, high = predicted["low"], predicted["high"]
    return f"{predicted['mean']:,.0f}" + ("" if low is None else f" [{low:,.0f}, {high:,.0f}]")


def covers(row: JSON) -> bool:
    """Whether the interval of a row's predicted return contains its real return; False without one."""
    predicted = row["predicted_return"]
    return predicted["low"] is not None and bool(
        predicted["low"] <= row["real_mean"] <= predicted["high"]
    )


def verdict(met: bool | None) -> str:
    """Cell of a goal; None: not measured."""
    return {True: "met", False: "**missed**", None: "not measured"}[met]
