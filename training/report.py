"""What was found, on one page: a self-contained HTML file and its Markdown twin."""

from __future__ import annotations

import base64
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from world_env.errors import MissingExtraError, StageError
from world_env.spec import JSON

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASH = "–"  # noqa: RUF001
_REAL, _LEARNED, _GREY, _THIRD = "#1f6feb", "#d9622b", "#8a8f98", "#2e9e6b"
_SERIES = (
    ("twin", "twin", _LEARNED, "-"),
    ("hold_last", "last observation held", _GREY, "--"),
    ("linear", "linear model", _THIRD, "-."),
)
_HEAD = (
    *("policy", "real return [95% CI]", "learned return [95% CI]", "promise", "real steps"),
    "past threshold",
)
_SHOWN_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
"""Steps whose open-loop errors the Markdown page shows, beside the last one."""
_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_PROVENANCE = ("commit", "date", "machine", "command", "seeds", "exploration")


def write_report(
    folder_out: str | os.PathLike[str],
    *,
    title: str,
    comparison: JSON,
    curves: JSON | None = None,
    stages: Sequence[Mapping[str, Any]] = (),
    frames: Sequence[np.ndarray] = (),
) -> Path:
    """Write `report.html` and `report.md`, each whole in itself; returns the HTML file's path.

    comparison: "env_id", "rows" and, where known, "episodes", "real_steps_by_purpose" (purpose ->
        steps) and "provenance" (such as "commit", "date", "machine", "command", "seeds",
        "exploration"). A row: "policy", "real_mean", "real_ci95" [low, high], "learned_mean",
        "learned_ci95" (returns in task units), "real_steps", "episodes", "past_threshold_share"
        (0..1). Missing or None values are dashes.
    curves: "horizon" [1..H] in steps; "twin", "hold_last", "linear": (H,) root mean square errors
        in "unit"; None: no open-loop curve was measured.
    stages: {"stage" (or "name"), "seconds"} in the order they ran.
    frames: (H, W, 3) uint8 each, learned and real side by side, in time order.
    Raises MissingExtraError, and StageError for a comparison without rows or an unwritable folder.
    """
    if not comparison.get("rows"):
        raise StageError(
            "a report needs a comparison with at least one row, got none: run compare first"
        )
    pictures = {
        "scatter": _scatter(comparison["rows"]),
        "curve": _curve(curves),
        "strip": _strip(frames),
    }
    page: dict[str, Any] = {
        "title": title,
        "env_id": comparison.get("env_id", "the real environment"),
        "head": list(_HEAD),
        "table": [_cells(row) for row in comparison["rows"]],
        "summary": summary(comparison, curves),
        "errors": _error_rows(curves),
        "unit": (curves or {}).get("unit") or "the observations' own units",
        "stages": [_stage(stage) for stage in stages],
        "purposes": _purposes(comparison),
        "provenance": _provenance(comparison),
    }
    folder = Path(folder_out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "report.md", _render_markdown(page, pictures))
        return _write(folder / "report.html", _render_html(page, pictures))
    except OSError as error:
        raise StageError(
            f"cannot write the report to {folder}: {error}. Free some space, or choose a folder "
            "that can be written."
        ) from error


def read_comparison(path: Path) -> JSON:
    """What `compare` or `build` wrote. Raises StageError for anything else."""
    try:
        tree = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(tree, dict) or not all("policy" in row for row in tree["rows"]):
            raise ValueError('expected an object with "rows", a "policy" in each')
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StageError(
            f"{path} is no comparison ({type(error).__name__}: {error}): give the comparison.json that `world-env "
            "compare` or `world-env build` wrote"
        ) from error
    return tree


def curves_from(fidelity: JSON) -> JSON | None:
    """The curves of `write_report` from what a twin says of itself; None where it was not measured."""
    curve = fidelity.get("open_loop") or {}
    if not curve.get("error"):
        return None
    return {
        "horizon": list(range(1, len(curve["error"]) + 1)),
        "twin": curve["error"],
        "hold_last": curve.get("hold_last"),
        "unit": curve.get("unit", ""),
    }


def summary(comparison: JSON, curves: JSON | None) -> str:
    """What the numbers mean, in two sentences."""
    rows = [row for row in comparison["rows"] if _number(row.get("real_mean")) is not None]
    both = [row for row in rows if _number(row.get("learned_mean")) is not None]
    if not rows:
        first = "No policy has been judged in reality yet."
    elif not both:
        best = max(rows, key=lambda row: row["real_mean"])
        first = (
            f"The best policy in reality is {best['policy']} with {show(best['real_mean'])}; "
            "none was also run in the twin."
        )
    else:
        best = max(both, key=lambda row: row["real_mean"])
        promise = best["learned_mean"] - best["real_mean"]
        first = (
            f"For {best['policy']}, the best policy that was run in both worlds, the twin promised "
            f"{show(best['learned_mean'])} and reality gave {show(best['real_mean'])}: "
            f"{show(abs(promise))} too {'much' if promise > 0 else 'little'}{_verdict(best)}."
        )
    return f"{first} {_curve_sentence(curves)}"


def _curve_sentence(curves: JSON | None) -> str:
    if not curves or not curves.get("twin"):
        return "How far the twin drifts from reality without seeing it was not measured."
    steps, twin = curves["horizon"], curves["twin"]
    text = (
        f"Left alone for {steps[-1]} steps, the twin is off by {show(twin[-1])} "
        f"{curves.get('unit', '')}".rstrip()
    )
    held = _number((curves.get("hold_last") or [None])[-1])
    if held is None:
        return text + "."
    last = _number(twin[-1])
    better = "better" if last is not None and last < held else "no better"
    return f"{text}, {better} than holding the last observation ({show(held)})."


def show(value: Any) -> str:
    """A number with as many decimals as help, or a dash."""
    number = _number(value)
    if number is None:
        return DASH
    if float(number).is_integer() or abs(number) >= 1000:
        return f"{number:,.0f}"
    return f"{number:.1f}" if abs(number) >= 100 else f"{number:.3g}"


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, str | bool) or not math.isfinite(value):
        return None
    return float(value)


def _interval(low_high: Any) -> tuple[float, float] | None:
    low, high = map(_number, low_high) if low_high else (None, None)
    return None if low is None or high is None else (low, high)


def _verdict(row: Mapping[str, Any]) -> str:
    real, learned = _interval(row.get("real_ci95")), _interval(row.get("learned_ci95"))
    if real is None or learned is None:
        return ""
    if learned[0] <= real[1] and real[0] <= learned[1]:
        return ", which chance may explain (the 95% intervals overlap)"
    return ", which is the twin's error and not chance (the 95% intervals do not overlap)"


def _cells(row: Mapping[str, Any]) -> list[str]:
    def mean(name: str) -> str:
        ends = _interval(row.get(f"{name}_ci95"))
        text = show(row.get(f"{name}_mean"))
        return (
            text if ends is None or text == DASH else f"{text} [{show(ends[0])}, {show(ends[1])}]"
        )

    real, learned = _number(row.get("real_mean")), _number(row.get("learned_mean"))
    promise = None if real is None or learned is None else learned - real
    share = _number(row.get("past_threshold_share"))
    return [
        str(row["policy"]),
        mean("real"),
        mean("learned"),
        DASH if promise is None else ("+" if promise > 0 else "") + show(promise),
        show(row.get("real_steps")),
        DASH if share is None else f"{100 * share:.1f}%",
    ]


def _error_rows(curves: JSON | None) -> list[list[str]]:
    """The open-loop errors as a table, its head first; empty where they were not measured."""
    if not curves or not curves.get("twin"):
        return []
    series = [(label, curves[name]) for name, label, *_ in _SERIES if curves.get(name)]
    last = len(curves["horizon"]) - 1
    places = [i for i, step in enumerate(curves["horizon"]) if step in _SHOWN_STEPS or i == last]
    rows = [[show(curves["horizon"][i]), *(show(v[i]) for _, v in series)] for i in places]
    return [["steps", *(label for label, _ in series)], *rows]


def _stage(stage: Mapping[str, Any]) -> tuple[str, str, float]:
    return (
        str(stage.get("stage", stage.get("name", "?"))),
        show(stage.get("seconds")),
        _number(stage.get("seconds")) or 0.0,
    )


def _purposes(comparison: JSON) -> list[tuple[str, str]]:
    return [
        (purpose, show(steps))
        for purpose, steps in (comparison.get("real_steps_by_purpose") or {}).items()
    ]


def _provenance(comparison: JSON) -> list[tuple[str, str]]:
    known = dict(comparison.get("provenance") or {})
    names = [name for name in _PROVENANCE if name in known] + sorted(set(known) - set(_PROVENANCE))
    if "episodes" in comparison and "episodes" not in known:
        known["episodes"] = f"{comparison['episodes']} per policy and world"
        names.append("episodes")
    return [(name, _text(known[name])) for name in names]


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
    return DASH if value is None else str(value)


def _figure() -> tuple[Figure, Axes]:
    """An empty plot, drawn without pyplot: no global state, no display."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError('plots need matplotlib: pip install "world-env[train]"') from error
    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Figure) -> str:
    """The plot as a data URI; on white, so that it reads in dark mode too."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    # Names inside the drawing come from a hash; unsalted, two runs would differ.
    with rc_context({"svg.hashsalt": "report"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _data_uri(buffer.getvalue(), "svg+xml")


def _data_uri(blob: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(blob).decode('ascii')}"


def _scatter(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Learned against real return of each policy, or None without a policy that has both."""
    both = [
        r for r in rows if None not in (_number(r.get("real_mean")), _number(r.get("learned_mean")))
    ]
    if not both:
        return None
    figure, axes = _figure()
    ends: list[float] = []
    for i, row in enumerate(both):
        real, learned = float(row["real_mean"]), float(row["learned_mean"])
        real_ends = _interval(row.get("real_ci95")) or (real, real)
        learned_ends = _interval(row.get("learned_ci95")) or (learned, learned)
        axes.errorbar(
            real,
            learned,
            xerr=[[max(real - real_ends[0], 0)], [max(real_ends[1] - real, 0)]],
            yerr=[[max(learned - learned_ends[0], 0)], [max(learned_ends[1] - learned, 0)]],
            fmt="os^Dvp*X"[i % 8],
            color=f"C{i}",
            capsize=3,
            markersize=5,
            label=str(row["policy"]),
        )
        ends += [real, learned, *real_ends, *learned_ends]
    low, high = min(ends), max(ends)
    margin = 0.06 * (high - low) or 1.0
    line = [low - margin, high + margin]
    axes.plot(line, line, color=_GREY, linewidth=1, zorder=0, label="learned = real")
    axes.set(xlim=line, ylim=line, xlabel="real return", ylabel="learned return")
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _curve(curves: JSON | None) -> str | None:
    """Open-loop error over the steps, or None where it was not measured."""
    if not curves or not curves.get("twin"):
        return None
    figure, axes = _figure()
    for name, label, colour, style in _SERIES:
        values = [math.nan if _number(v) is None else float(v) for v in curves.get(name) or ()]
        if values:
            axes.plot(curves["horizon"], values, style, color=colour, label=label, linewidth=1.8)
    axes.set(xlabel="steps without seeing reality", ylabel=f"error, {curves.get('unit', '')}")
    finite = [
        v for v in map(_number, curves["twin"] + (curves.get("hold_last") or [])) if v is not None
    ]
    # A baseline that explodes must not flatten the curves that matter.
    if finite:
        axes.set_ylim(0, 1.15 * max(finite) or 1.0)
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _strip(frames: Sequence[np.ndarray]) -> list[str]:
    """Every frame as a PNG data URI."""
    if not len(frames):
        return []
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError('pictures need Pillow: pip install "world-env[train]"') from error
    uris = []
    for frame in frames:
        image = Image.fromarray(np.asarray(frame, np.uint8))
        image.thumbnail((640, 640))
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", optimize=True)
        uris.append(_data_uri(buffer.getvalue(), "png"))
    return uris


def _render_html(page: Mapping[str, Any], pictures: Mapping[str, Any]) -> str:
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError(
            'the report needs jinja2: pip install "world-env[train]"'
        ) from error
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    longest = max((seconds for *_, seconds in page["stages"]), default=0.0) or 1.0
    return template.render(**page, **pictures, dash=DASH, longest=longest)


def _render_markdown(page: Mapping[str, Any], pictures: Mapping[str, Any]) -> str:
    lines = [f"# {page['title']}", "", page["summary"], ""]
    lines += _markdown_table(page["head"], page["table"])
    if page["errors"]:
        lines += ["## Error without seeing reality", "", f"In {page['unit']}.", ""]
        lines += _markdown_table(page["errors"][0], page["errors"][1:])
    if page["stages"]:
        lines += ["## Seconds per stage", ""]
        lines += _markdown_table(["stage", "seconds"], [stage[:2] for stage in page["stages"]])
    if page["purposes"]:
        lines += ["## Real steps by purpose", ""]
        lines += _markdown_table(["purpose", "steps"], page["purposes"])
    if page["provenance"]:
        lines += ["## Where this comes from", ""]
        lines += [f"- {name}: {value}" for name, value in page["provenance"]] + [""]
    if any(pictures.values()):
        lines += ["The pictures (plots and frames) are in `report.html`, beside this file.", ""]
    return "\n".join(lines)


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return ["| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines] + [""]


def _write(path: Path, text: str) -> Path:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
    return path
