"""Plots of the report page as data URIs, drawn without pyplot; equal numbers give equal bytes."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from world_env.errors import MissingExtraError
from world_env.results.comparison import Comparison, Interval, PolicyComparison
from world_env.results.error_curves import ErrorCurves
from world_env.results.fidelity import Fidelity
from world_env.results.formatting import percent
from world_env.results.round_log import RoundLog

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


def all_plots(
    comparison: Comparison,
    curves: ErrorCurves | None,
    fidelity: Fidelity | None,
    logs: Sequence[RoundLog],
) -> list[tuple[str, str, str]]:
    """(image, alternative text, caption) of each plot of the page whose numbers were measured."""
    fidelity = fidelity or Fidelity()
    pool = agreement_scatter(fidelity)
    found = [
        (
            None if pool else scatter(comparison.rows),
            "Learned return against real return of each compared policy",
            "Learned and real return of each policy, with 95 % intervals. On the diagonal both are equal; above it the "
            "learned return is too high.",
        ),
        (
            pool,
            "Learned return against real return of each evaluated policy",
            "Learned and real return of every evaluated policy, with 95 % intervals. On the diagonal both are equal; "
            "above it the learned return is too high. Hollow markers: too many steps out of distribution for a "
            "predicted return. Grey band: predicted real return.",
        ),
        (
            predicted_returns(fidelity),
            "Interval of the predicted return and real return of each policy",
            "Interval of the predicted return (bar) and real return (marker) of each policy. Red markers: real return "
            "outside the interval.",
        ),
        (
            rounds(logs),
            "Predicted and real return after each round",
            "Predicted return of the policy chosen in each round, with its interval, and its returns in the real "
            "evaluation episodes of the next round. The interval follows from the errors of the predictions before.",
        ),
        (
            curve(curves),
            "Open-loop error by the number of steps",
            "Open-loop error on the validation split: the twin predicts from its own predictions, without real "
            "observations. Lower is better. Dashed: error of holding the last observation.",
        ),
        (
            survival(fidelity),
            "Share of running episodes by the number of steps, real and learned",
            "Share of validation episodes that are running after a number of steps, in the real environment and in the "
            "twin under the same actions.",
        ),
    ]
    return [(image, text, caption) for image, text, caption in found if image is not None]


def scatter(rows: Sequence[PolicyComparison]) -> str | None:
    """Learned against real return of each compared policy; None without a policy that has both."""
    both = [
        (row.label, _cross(row.real_mean, row.real_ci95, row.learned_mean, row.learned_ci95))
        for row in rows
        if row.learned_mean is not None
    ]
    if not both:
        return None
    figure, axes = _figure()
    for i, (label, cross) in enumerate(both):
        style = {"fmt": "os^Dvp*X"[i % 8], "color": f"C{i}", "capsize": 3}
        _draw_crosses(axes, [cross], **style, label=_label(label))
    _square(axes, [cross for _, cross in both])
    _legend(figure, axes)
    return _svg(figure)


def agreement_scatter(fidelity: Fidelity) -> str | None:
    """Learned against real return of the evaluated policies, with the band of predicted returns."""
    if fidelity.agreement is None or not fidelity.agreement.points:
        return None
    crosses = [
        (point, _cross(point.real, point.real_ci95, point.learned, point.learned_ci95))
        for point in fidelity.agreement.points
    ]
    figure, axes = _figure()
    for kind, marker, colour, label in _KINDS:
        for supported in (True, False):
            chosen = [
                cross
                for point, cross in crosses
                if point.kind == kind and point.supported == supported
            ]
            if chosen:
                _draw_crosses(
                    axes,
                    chosen,
                    fmt=marker,
                    color=colour,
                    markerfacecolor=colour if supported else "white",
                    alpha=0.85,
                    elinewidth=0.8,
                    label=label if supported else f"{label}, out of distribution",
                )
    line = _square(axes, [cross for _, cross in crosses])
    if (found := fidelity.return_prediction) is not None:
        axes.fill_between(
            line,
            [end + found.bias - found.half_width for end in line],
            [end + found.bias + found.half_width for end in line],
            color=_GREY,
            alpha=0.18,
            linewidth=0,
            zorder=0,
            label=f"predicted return ({percent(found.level)})",
        )
    _legend(figure, axes)
    return _svg(figure)


def predicted_returns(fidelity: Fidelity) -> str | None:
    """Predicted interval and real return of each evaluated policy; None without an interval."""
    points = [] if fidelity.agreement is None else fidelity.agreement.points
    given = [
        (point.real, point.low, point.high, point.kind)
        for point in points
        if point.low is not None and point.high is not None
    ]
    if not given:
        return None
    given.sort(key=lambda point: point[0])
    figure, axes = _figure(height=min(9.0, max(_HEIGHT, 1.5 + 0.12 * len(given))))
    _, lows, highs, _ = zip(*given, strict=True)
    axes.hlines(range(len(given)), lows, highs, color=_GREY, alpha=0.55, linewidth=4)
    for kind, marker, colour, label in _KINDS:
        for inside in (True, False):
            marks = [
                (real, place)
                for place, (real, low, high, own) in enumerate(given)
                if own == kind and (low <= real <= high) == inside
            ]
            if marks:
                name = label if inside else f"{label}, outside the interval"
                x, y = zip(*marks, strict=True)
                axes.plot(x, y, marker, color=colour if inside else _BAD, markersize=5, label=name)
    axes.set(xlabel="return: predicted (bar), real (marker)", ylabel="policies, by real return")
    axes.set_yticks([])
    _legend(figure, axes)
    return _svg(figure)


def curve(curves: ErrorCurves | None) -> str | None:
    """Open-loop errors by the number of steps; None where they were not measured."""
    if curves is None:
        return None
    figure, axes = _figure()
    for name, (colour, style) in _STYLES.items():
        if name in curves.series:
            axes.plot(
                curves.steps,
                _finite_or_nan(curves.series[name]),
                style,
                color=colour,
                label=_label(curves.label(name)),
                linewidth=2.2 if name == "twin" else 1.5,
            )
    if curves.trusted:
        axes.axvline(curves.trusted, color=_GREY, linewidth=1, label="trusted horizon")
    axes.set(xlabel="steps without real observations", ylabel=f"error, {curves.unit}")
    _limits(axes, curves)
    _legend(figure, axes)
    return _svg(figure)


def survival(fidelity: Fidelity) -> str | None:
    """Share of running episodes by the number of steps, real and learned; None where it was not measured."""
    found = None if fidelity.horizons is None else fidelity.horizons.survival
    if found is None or len(found.steps) < 2:
        return None
    figure, axes = _figure()
    for values, label, colour, style in (
        (found.real, "real", _REAL, "o-"),
        (found.learned, "learned", _LEARNED, "^--"),
    ):
        shares = [100 * share for share in _finite_or_nan(values)]
        axes.plot(found.steps, shares, style, color=colour, label=label, markersize=4)
    axes.set(xlabel="steps", ylabel="running episodes, %", ylim=(-3, 103))
    _legend(figure, axes)
    return _svg(figure)


def rounds(logs: Sequence[RoundLog]) -> str | None:
    """Predicted return of the policy chosen in each round, and its real evaluation episodes in the next round.

    None for fewer than two rounds with a predicted return.
    """
    predicted = [(log.real_steps, log.predicted_return) for log in logs if log.predicted_return]
    if len(predicted) < 2:
        return None
    figure, axes = _figure()
    places = [place for place, _ in predicted]
    axes.fill_between(
        places,
        _finite_or_nan([part.low for _, part in predicted]),
        _finite_or_nan([part.high for _, part in predicted]),
        color=_LEARNED,
        alpha=0.15,
        linewidth=0,
        label="predicted return, interval",
    )
    axes.plot(
        places,
        [part.mean for _, part in predicted],
        "^-",
        color=_LEARNED,
        markersize=4,
        label="predicted return",
    )
    steps = {log.round: log.real_steps for log in logs}
    evaluated = [(steps[log.reality.round], log.reality.returns) for log in logs if log.reality]
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


def rounds_picture(logs: Sequence[RoundLog]) -> bytes | None:
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


def _cross(
    real: float, real_ends: Interval | None, learned: float, ends: Interval | None
) -> tuple[float, ...]:
    """(real mean, low, high, learned mean, low, high); without an interval its ends are the mean."""
    return (real, *(real_ends or (real, real)), learned, *(ends or (learned, learned)))


def _draw_crosses(axes: Axes, crosses: Sequence[tuple[float, ...]], **style: Any) -> None:
    """Draw the two means of each policy with their intervals."""
    real, real_low, real_high, learned, low, high = np.array(crosses).T
    axes.errorbar(
        real,
        learned,
        xerr=np.maximum([real - real_low, real_high - real], 0),
        yerr=np.maximum([learned - low, high - learned], 0),
        linestyle="none",
        markersize=5,
        **style,
    )


def _square(axes: Axes, crosses: Sequence[tuple[float, ...]]) -> list[float]:
    """Set one range for both axes and draw the diagonal; returns the range."""
    low, high = min(map(min, crosses)), max(map(max, crosses))
    margin = 0.06 * (high - low) or 1.0
    line = [low - margin, high + margin]
    axes.plot(line, line, color=_GREY, linewidth=1, zorder=0, label="learned = real")
    axes.set(xlim=line, ylim=line, xlabel="real return", ylabel="learned return")
    return line


def _limits(axes: Axes, curves: ErrorCurves) -> None:
    """Set logarithmic axes for a wide range of errors. A diverging linear model does not set the range."""
    twin = [value for value in curves.series["twin"] if value is not None]
    shown = [
        value
        for name, values in curves.series.items()
        for value in values
        if value is not None and name != "linear"
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


def _label(text: str) -> str:
    """Escape a label: matplotlib reads $ as mathematics and hides labels that begin with an underscore."""
    plain = text.replace("$", r"\$")
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
