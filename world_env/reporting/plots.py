"""Plots of the report page as data URIs, drawn without pyplot; equal numbers give equal bytes."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from world_env.errors import MissingExtraError
from world_env.twin.fidelity import at, interval, number, numbers, percent, rows_of
from world_env.twin.fidelity_tables import curve_label, policy_label
from world_env.types import JSON

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_REAL, _LEARNED, _GREY, _THIRD, _BAD = "#1f6feb", "#d9622b", "#8a8f98", "#2e9e6b", "#c62f3b"
_WIDTH, _HEIGHT = 4.6, 3.7
"""Inches; at the width of a phone the labels are as large as the text of the page."""
_STYLES = {
    "linear": (_THIRD, "-."),
    "hold_last": (_GREY, "--"),
    "median": (_REAL, ":"),
    "worst": (_BAD, ":"),
    "energy": (_REAL, "-"),
    "hold_energy": (_REAL, "--"),
    "twin": (_LEARNED, "-"),
}
_KINDS = (
    ("evaluation", "o", _REAL, "policy pool"),
    ("optimisation", "^", _LEARNED, "trained in the twin"),
)
_LOG_FROM = 10
"""Ratio of the largest to the smallest error of the twin from which both axes are logarithmic."""
_FRAME_SIZE = 960
"""Pixels of the longer side of a frame, at most: its captions stay readable in two columns."""
_LABEL_LENGTH = 48
"""Characters of a label; longer labels are cut."""
_LEGEND_LINE, _LEGEND_LINES = 0.19, 3
"""Inches of a line of the legend, and lines that fit into the height of a plot; more lines add to it."""
_TWO_COLUMNS = 56
"""Characters that the labels of two columns of the legend have room for."""


def scatter(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Learned against real return of each compared policy; None without a policy that has both."""
    both = [row for row in rows if None not in _means(row, "real_mean", "learned_mean")]
    if not both:
        return None
    figure, axes = _figure()
    ends: list[float] = []
    for i, row in enumerate(both):
        style = {"fmt": "os^Dvp*X"[i % 8], "color": f"C{i}", "capsize": 3}
        _crosses(axes, [row], "_mean", **style, label=_label(policy_label(row["policy"])))
        ends += _ends(row, "_mean")
    _square(axes, ends)
    return _svg(figure)


def agreement_scatter(fidelity: Any) -> str | None:
    """Learned against real return of the evaluated policies, with the band of predicted returns."""
    points = _points(fidelity)
    if not points:
        return None
    figure, axes = _figure()
    for kind, marker, colour, label in _KINDS:
        for supported in (True, False):
            chosen = [
                point
                for point in points
                if point.get("kind") == kind and (point.get("supported") is not False) == supported
            ]
            if chosen:
                _crosses(
                    axes,
                    chosen,
                    "",
                    fmt=marker,
                    color=colour,
                    markerfacecolor=colour if supported else "white",
                    alpha=0.85,
                    elinewidth=0.8,
                    label=label if supported else f"{label}, out of distribution",
                )
    line = _square(axes, [end for point in points for end in _ends(point, "")], legend=False)
    bias, half = _means(at(fidelity, "return_prediction"), "bias", "half_width")
    if bias is not None and half is not None:
        level = at(fidelity, "return_prediction", "level")
        axes.fill_between(
            line,
            [end + bias - half for end in line],
            [end + bias + half for end in line],
            color=_GREY,
            alpha=0.18,
            linewidth=0,
            zorder=0,
            label=f"predicted return ({percent(level)})",
        )
    _legend(figure, axes)
    return _svg(figure)


def predicted_returns(fidelity: Any) -> str | None:
    """Predicted interval and real return of each evaluated policy; None without an interval."""
    given = [p for p in _points(fidelity) if None not in _means(p, "low", "high", "real")]
    if not given:
        return None
    given.sort(key=lambda point: point["real"])
    figure, axes = _figure(height=min(9.0, max(_HEIGHT, 1.5 + 0.12 * len(given))))
    low, high = ([point[end] for point in given] for end in ("low", "high"))
    axes.hlines(range(len(given)), low, high, color=_GREY, alpha=0.55, linewidth=4)
    for kind, marker, colour, label in _KINDS:
        for inside in (True, False):
            marks = [
                (point["real"], place)
                for place, point in enumerate(given)
                if point.get("kind") == kind
                and (point["low"] <= point["real"] <= point["high"]) == inside
            ]
            if marks:
                name = label if inside else f"{label}, outside the interval"
                x, y = zip(*marks, strict=True)
                axes.plot(x, y, marker, color=colour if inside else _BAD, markersize=5, label=name)
    axes.set(xlabel="return: predicted (bar), real (marker)", ylabel="policies, by real return")
    axes.set_yticks([])
    _legend(figure, axes)
    return _svg(figure)


def curve(curves: JSON | None) -> str | None:
    """Open-loop errors by the number of steps; None where they were not measured."""
    if not curves or not curves.get("twin"):
        return None
    figure, axes = _figure()
    for name, (colour, style) in _STYLES.items():
        values = _finite_or_nan(numbers(curves.get(name)))
        if values:
            axes.plot(
                curves["horizon"],
                values,
                style,
                color=colour,
                label=_label(curve_label(curves, name)),
                linewidth=2.2 if name == "twin" else 1.5,
            )
    trusted = number(curves.get("trusted"))
    if trusted:
        axes.axvline(trusted, color=_GREY, linewidth=1, label="trusted horizon")
    unit = curves.get("unit") or "units of the observations"
    axes.set(xlabel="steps without real observations", ylabel=f"error, {unit}")
    _limits(axes, curves)
    _legend(figure, axes)
    return _svg(figure)


def survival(fidelity: Any) -> str | None:
    """Share of running episodes by the number of steps, real and learned; None where it was not measured."""
    found = at(fidelity, "horizons", "survival")
    steps, real, learned = (numbers(at(found, name)) for name in ("steps", "real", "learned"))
    if None in steps or not 1 < len(steps) == len(real) == len(learned):
        return None
    figure, axes = _figure()
    for values, label, colour, style in (
        (real, "real", _REAL, "o-"),
        (learned, "learned", _LEARNED, "^--"),
    ):
        shares = [100 * share for share in _finite_or_nan(values)]
        axes.plot(_finite_or_nan(steps), shares, style, color=colour, label=label, markersize=4)
    axes.set(xlabel="steps", ylabel="running episodes, %", ylim=(-3, 103))
    _legend(figure, axes)
    return _svg(figure)


def rounds(logs: Sequence[Mapping[str, Any]]) -> str | None:
    """Predicted return of the policy chosen in each round, and its real evaluation episodes in the next round.

    logs: `world_env.refinement.rounds.Round.log` of each round. None for fewer than two rounds.
    """
    if len(logs) < 2:
        return None
    figure, axes = _figure()
    steps = {log["round"]: log["real_steps"] for log in logs}
    predicted = [log["predicted_return"] for log in logs]
    low, high = (
        _finite_or_nan([number(part.get(end)) for part in predicted]) for end in ("low", "high")
    )
    places = list(steps.values())
    axes.fill_between(
        places,
        low,
        high,
        color=_LEARNED,
        alpha=0.15,
        linewidth=0,
        label="predicted return, interval",
    )
    axes.plot(
        places,
        [part["mean"] for part in predicted],
        "^-",
        color=_LEARNED,
        markersize=4,
        label="predicted return",
    )
    evaluated = [
        (steps[each["round"]], each["returns"]) for log in logs if (each := log.get("reality"))
    ]
    for place, returns in evaluated:
        axes.plot([place] * len(returns), returns, "o", color=_REAL, alpha=0.35, markersize=3)
    axes.plot(
        [place for place, _ in evaluated],
        [float(np.mean(returns)) for _, returns in evaluated],
        "o-",
        color=_REAL,
        markersize=4,
        label="real evaluation episodes",
    )
    axes.set(xlabel="real environment steps", ylabel="return of the chosen policy")
    _legend(figure, axes)
    return _svg(figure)


def rounds_picture(logs: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Plot of `rounds` as the content of an SVG file; None for fewer than two rounds."""
    uri = rounds(logs)
    return None if uri is None else base64.b64decode(uri.partition(",")[2])


def strip(frames: Sequence[np.ndarray]) -> list[str]:
    """Frames as PNG data URIs."""
    if not len(frames):
        return []
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError('pictures need Pillow: pip install "world-env[train]"') from error
    uris = []
    for frame in frames:
        image = Image.fromarray(np.asarray(frame, np.uint8))
        image.thumbnail((_FRAME_SIZE, _FRAME_SIZE))
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", optimize=True)
        uris.append(_data_uri(buffer.getvalue(), "png"))
    return uris


def _finite_or_nan(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _points(fidelity: Any) -> list[JSON]:
    points = rows_of(at(fidelity, "agreement", "points"))
    return [point for point in points if None not in _means(point, "real", "learned")]


def _means(row: Any, *names: str) -> list[float | None]:
    return [number(at(row, name)) for name in names]


def _ends(row: Mapping[str, Any], suffix: str) -> list[float]:
    """Means and bounds of their intervals: real mean, low, high, learned mean, low, high."""
    found = []
    for side in ("real", "learned"):
        mean = float(row[f"{side}{suffix}"])
        found += [mean, *(interval(row.get(f"{side}_ci95")) or (mean, mean))]
    return found


def _crosses(axes: Axes, rows: Sequence[Mapping[str, Any]], suffix: str, **style: Any) -> None:
    """Draw the two means of each policy with their intervals."""
    real, real_low, real_high, learned, low, high = np.array([_ends(row, suffix) for row in rows]).T
    axes.errorbar(
        real,
        learned,
        xerr=np.maximum([real - real_low, real_high - real], 0),
        yerr=np.maximum([learned - low, high - learned], 0),
        linestyle="none",
        markersize=5,
        **style,
    )


def _square(axes: Axes, ends: Sequence[float], *, legend: bool = True) -> list[float]:
    """Set one range for both axes and draw the diagonal; returns the range."""
    low, high = min(ends), max(ends)
    margin = 0.06 * (high - low) or 1.0
    line = [low - margin, high + margin]
    axes.plot(line, line, color=_GREY, linewidth=1, zorder=0, label="learned = real")
    axes.set(xlim=line, ylim=line, xlabel="real return", ylabel="learned return")
    if legend:
        _legend(axes.get_figure(), axes)
    return line


def _limits(axes: Axes, curves: JSON) -> None:
    """Set logarithmic axes for a wide range of errors. A diverging linear model does not set the range."""
    twin = [value for value in numbers(curves["twin"]) if value is not None]
    shown = twin + [
        value
        for name in ("hold_last", "worst", "median", "energy", "hold_energy")
        for value in numbers(curves.get(name))
        if value is not None
    ]
    if not shown:
        return
    if twin and min(shown) > 0 and max(twin) > _LOG_FROM * min(twin):
        axes.set(xscale="log", yscale="log", ylim=(min(shown) / 1.3, 1.5 * max(shown)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(0, 1.15 * max(shown) or 1.0)


def _figure(height: float = _HEIGHT) -> tuple[Figure, Axes]:
    """Create an empty plot without pyplot: no global state, no display."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError('plots need matplotlib: pip install "world-env[train]"') from error
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.25)
    axes.yaxis.label.set_fontsize(9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(figure: Any, axes: Axes) -> None:
    """Draw the legend above the plot, where it covers no data; one column for long labels."""
    handles, labels = axes.get_legend_handles_labels()
    half = -(-len(labels) // 2)
    widths = [max(map(len, part), default=0) for part in (labels[:half], labels[half:])]
    columns = 2 if sum(widths) <= _TWO_COLUMNS else 1
    lines = half if columns == 2 else len(labels)
    figure.set_figheight(figure.get_figheight() + _LEGEND_LINE * max(0, lines - _LEGEND_LINES))
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        fontsize=8.5,
        columnspacing=1.0,
        handlelength=1.6,
    )


def _label(text: Any) -> str:
    """Escape a label: matplotlib reads $ as mathematics and hides labels that begin with an underscore."""
    plain = str(text).replace("$", r"\$")
    plain = plain if len(plain) <= _LABEL_LENGTH else f"{plain[: _LABEL_LENGTH - 2]}…"
    return f" {plain}" if plain.startswith("_") else plain


def _svg(figure: Figure) -> str:
    """Plot as a data URI; its white background keeps it readable in dark mode."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    # Ids inside the SVG come from a salted hash: a fixed salt gives equal bytes in two runs.
    with rc_context({"svg.hashsalt": "report"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _data_uri(buffer.getvalue(), "svg+xml")


def _data_uri(blob: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(blob).decode('ascii')}"
