"""What was found, on one page: a self-contained HTML file and its Markdown twin."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from world_env.atomic_io import write_text
from world_env.errors import MissingExtraError, StageError
from world_env.reporting import plots
from world_env.twin.fidelity import DASH, at, error_curves, interval, number, percent
from world_env.twin.fidelity import show as show
from world_env.twin.fidelity_tables import (
    KINDS_SAID,
    agreement_table,
    coverage_table,
    effect_table,
    error_table,
    markdown_table,
    points_table,
    pool_text,
    prediction_text,
    with_ends,
)
from world_env.twin.warning_rules import NO_WARNING, warnings_of
from world_env.types import JSON

_HEAD = (
    *("policy", "real return [95 %]", "learned return [95 %]", "promise", "real steps"),
    "past threshold",
)
_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_JUDGED = (
    "Each judged policy in both worlds, with 95 % intervals. On the line the twin is right, above it, it promises too "
    "much. Hollow: too much of it lies past the uncertainty threshold for a promise. Grey: where real returns are "
    "predicted to lie."
)
_COMPARED = (
    "Each policy's return in both worlds with 95 % intervals. On the line the twin keeps its promise; above it, it "
    "promises too much."
)
_PREDICTION_EPISODES = (
    "What the twin predicted of each policy (bar) and what reality gave (mark); a mark outside of its bar is a broken "
    "promise."
)
_ROUNDS = (
    "What each round's twin predicted of the policy chosen there, and what that earned in reality in the next round's "
    "spot checks. Promises are as uncertain as the last ones were wrong."
)
_CURVE = "Error of predictions that never see reality again, on held-out episodes. Lower is better."
_SURVIVAL = "How many held-out episodes go on, in reality and in the twin under the same actions."
_EFFECT = "From the same states: how much another action changes, and how wrong the twin is about that change."
_PROVENANCE = ("commit", "date", "machine", "command", "seeds", "exploration")


def write_report(
    folder_out: str | os.PathLike[str],
    *,
    title: str,
    comparison: JSON,
    curves: JSON | None = None,
    stages: Sequence[Mapping[str, Any]] = (),
    frames: Sequence[np.ndarray] = (),
    fidelity: JSON | None = None,
    rounds: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write `report.html` and `report.md`, each whole in itself; returns the HTML file's path.

    comparison: "env_id", "rows" and, where known, "episodes", "real_steps_by_purpose" (purpose ->
        steps) and "provenance" (such as "commit", "date", "machine", "command", "seeds",
        "exploration"). A row: "policy", "real_mean", "real_ci95" [low, high], "learned_mean",
        "learned_ci95" (returns in task units), "real_steps", "episodes", "past_threshold_share"
        (0..1). Missing or None values are dashes.
    curves: "horizon" [1..H] in steps; "twin", "hold_last", "linear": (H,) root mean square errors
        in "unit"; None: those that the twin says of itself, if there is one.
    stages: {"stage" (or "name"), "seconds"} in the order they ran.
    frames: (H, W, 3) uint8 each, learned and real side by side, in time order.
    rounds: logs of the rounds of a refinement, as `world_env.reporting.plots.rounds` takes them.
    fidelity: of the twin: its warnings, agreement, promise, horizons and counterfactuals, as far as it has them.
    Raises MissingExtraError, and StageError for a comparison without rows or an unwritable folder.
    """
    if not comparison.get("rows"):
        raise StageError(
            "a report needs a comparison with at least one row, got none: run compare first"
        )
    if curves is None or at(fidelity, "horizons") is not None:
        curves = curves_from(fidelity) or curves
    page: dict[str, Any] = {
        "title": title,
        "env_id": comparison.get("env_id", "the real environment"),
        "summary": summary(comparison, curves),
        "warnings": None if fidelity is None else warnings_of(fidelity),
        "table": [list(_HEAD), *map(_cells, comparison["rows"])],
        "plots": _plots(comparison, curves, fidelity, rounds),
        "sections": _sections(fidelity),
        "strip": plots.strip(frames),
        "errors": error_table(curves),
        "unit": (curves or {}).get("unit") or "the observations' own units",
        "stages": [_stage(stage) for stage in stages],
        "purposes": _purposes(comparison),
        "provenance": _provenance(comparison),
    }
    folder = Path(folder_out)
    write_text(folder / "report.md", _render_markdown(page))
    write_text(folder / "report.html", _render_html(page))
    return folder / "report.html"


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


def curves_from(fidelity: Any) -> JSON | None:
    """The curves of `write_report` from what a twin says of itself; None where it was not measured."""
    return error_curves(fidelity)


def summary(comparison: JSON, curves: JSON | None) -> str:
    """What the numbers mean, in two sentences."""
    rows = [row for row in comparison["rows"] if number(row.get("real_mean")) is not None]
    both = [row for row in rows if number(row.get("learned_mean")) is not None]
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
            f"For {best['policy']}, the best policy that was run in both worlds, the twin predicted "
            f"{show(best['learned_mean'])} and reality gave {show(best['real_mean'])}: {_missed(promise, best)}."
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
    held, last = number((curves.get("hold_last") or [None])[-1]), number(twin[-1])
    told = curves.get("drawn")
    if told:
        # Who keeps to one of many futures is off by more than who shows their mean: errors say little of it.
        held, last = told["hold_energy"], told["energy"]
        text += f". After {told['steps']} steps its draws have an energy score of {show(last)}"
    if held is None:
        return text + "."
    better = "better" if last is not None and last < held else "no better"
    return f"{text}, {better} than holding the last observation ({show(held)})."


def _missed(promise: float, row: Mapping[str, Any]) -> str:
    if not promise:
        return "the same"
    return f"{show(abs(promise))} too {'much' if promise > 0 else 'little'}{_verdict(row)}"


def _verdict(row: Mapping[str, Any]) -> str:
    real, learned = interval(row.get("real_ci95")), interval(row.get("learned_ci95"))
    if real is None or learned is None:
        return ""
    if learned[0] <= real[1] and real[0] <= learned[1]:
        return ", which chance may explain (the 95 % intervals overlap)"
    return ", which is the twin's error and not chance (the 95 % intervals do not overlap)"


def _cells(row: Mapping[str, Any]) -> list[str]:
    real, learned = number(row.get("real_mean")), number(row.get("learned_mean"))
    promise = None if real is None or learned is None else learned - real
    return [
        str(row["policy"]),
        with_ends(row, "real_mean", "real_ci95"),
        with_ends(row, "learned_mean", "learned_ci95"),
        DASH if promise is None else ("+" if promise > 0 else "") + show(promise),
        show(row.get("real_steps")),
        percent(row.get("past_threshold_share")),
    ]


def _plots(
    comparison: JSON, curves: JSON | None, fidelity: Any, rounds: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str, str]]:
    """(picture, what it shows, caption) of every plot whose numbers are there."""
    judged = plots.agreement_scatter(fidelity)
    found = [
        (judged, "Learned return against real return of each judged policy", _JUDGED),
        (
            None if judged else plots.scatter(comparison["rows"]),
            "Learned return against real return of each policy",
            _COMPARED,
        ),
        (
            plots.promises(fidelity),
            "Promised interval and real return of each policy",
            _PREDICTION_EPISODES,
        ),
        (plots.rounds(rounds), "Promised and real return after each round", _ROUNDS),
        (plots.curve(curves), "Error over the number of steps", _CURVE),
        (plots.survival(fidelity), "Share of episodes that go on, in both worlds", _SURVIVAL),
    ]
    return [(picture, shows, caption) for picture, shows, caption in found if picture is not None]


def _sections(fidelity: Any) -> list[JSON]:
    """What else was measured of the twin: {"title", "texts", "table", "folded"} each."""
    found = [
        ("Agreement", [pool_text(fidelity), KINDS_SAID], agreement_table(fidelity), False),
        ("ReturnPrediction", [prediction_text(fidelity)], coverage_table(fidelity), False),
        ("What another action changes", [_EFFECT], effect_table(fidelity), False),
        ("Every judged policy", [], points_table(fidelity), True),
    ]
    return [
        {
            "title": title,
            "texts": [text for text in texts if text],
            "table": table,
            "folded": folded,
        }
        for title, texts, table, folded in found
        if table or (title == "ReturnPrediction" and any(texts))
    ]


def _stage(stage: Mapping[str, Any]) -> tuple[str, str, float]:
    return (
        str(stage.get("stage", stage.get("name", "?"))),
        show(stage.get("seconds")),
        number(stage.get("seconds")) or 0.0,
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


def _render_html(page: Mapping[str, Any]) -> str:
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError(
            'the report needs jinja2: pip install "world-env[train]"'
        ) from error
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    longest = max((seconds for *_, seconds in page["stages"]), default=0.0) or 1.0
    return template.render(**page, no_warning=NO_WARNING, dash=DASH, longest=longest)


def _render_markdown(page: Mapping[str, Any]) -> str:
    lines = [f"# {page['title']}", "", page["summary"], ""]
    if page["warnings"] is not None:
        lines += [
            "## Warnings",
            "",
            *(f"- {text}" for text in page["warnings"] or [NO_WARNING]),
            "",
        ]
    lines += [*markdown_table(page["table"]), ""]
    for section in page["sections"]:
        lines += [f"## {section['title']}", ""]
        for part in (*([text] for text in section["texts"]), markdown_table(section["table"])):
            lines += [*part, ""] if part else []
    if page["errors"]:
        lines += ["## Error without seeing reality", "", f"In {page['unit']}.", ""]
        lines += [*markdown_table(page["errors"]), ""]
    if page["stages"]:
        lines += ["## Seconds per stage", ""]
        lines += [*markdown_table([["stage", "seconds"], *(s[:2] for s in page["stages"])]), ""]
    if page["purposes"]:
        lines += ["## Real steps by purpose", ""]
        lines += [*markdown_table([["purpose", "steps"], *page["purposes"]]), ""]
    if page["provenance"]:
        lines += ["## Where this comes from", ""]
        lines += [f"- {name}: {value}" for name, value in page["provenance"]] + [""]
    if page["plots"] or page["strip"]:
        lines += ["The pictures (plots and frames) are in `report.html`, beside this file.", ""]
    return "\n".join(lines)
