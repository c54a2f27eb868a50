"""Report page of a comparison: a self-contained HTML file and the same content in Markdown."""

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
from world_env.twin.fidelity import DASH, at, error_curves, interval, number, percent, show as show
from world_env.twin.fidelity_tables import (
    AGREEMENT_NOTE,
    Table,
    agreement_table,
    coverage_table,
    effect_table,
    error_table,
    is_baseline,
    is_trained_in_twin,
    markdown_table,
    points_table,
    policy_label,
    pool_text,
    prediction_text,
    with_ends,
)
from world_env.twin.provenance_text import exploration_text, real_steps_text, seeds_text
from world_env.twin.warning_rules import NO_WARNING, comparison_warnings, warnings_of
from world_env.types import JSON

_HEAD = (
    *("policy", "real return [95 %]", "learned return [95 %]", "return gap", "real steps"),
    "out of distribution",
)
_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_POOL_CAPTION = (
    "Learned and real return of every evaluated policy, with 95 % intervals. On the diagonal both are equal; above it "
    "the learned return is too high. Hollow markers: too many steps out of distribution for a predicted return. Grey "
    "band: predicted real return."
)
_COMPARED_CAPTION = (
    "Learned and real return of each policy, with 95 % intervals. On the diagonal both are equal; above it the learned "
    "return is too high."
)
_PREDICTION_CAPTION = (
    "Interval of the predicted return (bar) and real return (marker) of each policy. Red markers: real return outside "
    "the interval."
)
_ROUNDS_CAPTION = (
    "Predicted return of the policy chosen in each round, with its interval, and its returns in the real evaluation "
    "episodes of the next round. The interval follows from the errors of the predictions before."
)
_CURVE_CAPTION = (
    "Open-loop error on the validation split: the twin predicts from its own predictions, without real observations. "
    "Lower is better. Dashed: error of holding the last observation."
)
_SURVIVAL_CAPTION = (
    "Share of validation episodes that are running after a number of steps, in the real environment and in the twin "
    "under the same actions."
)
_EFFECT_TEXT = (
    "Different actions from the same real states: size of their effect on the observation, and error of the effect "
    "that the twin predicts. An error of 100 % is that of predicting no effect."
)
_PURPOSES = {
    "collect": "data of the twin, and training of baselines in the real environment",
    "validate": "validation of the twin",
    "select": "selection of policies",
    "evaluate": "real evaluation episodes, diagnostics and videos",
    "judge": "final evaluation of the policies",
}
"""Purposes of `real.step_ledger.PURPOSES` in words."""
_PROVENANCE = ("command", "commit", "date", "machine")
_LIST_LIMIT = 8
"""Entries of a recorded list that the page shows; of a longer one it shows the number."""


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
    """Write `report.html` and `report.md`, each self-contained; returns the path of the HTML file.

    comparison: "env_id", "rows" and, where known, "episodes", "real_steps_by_purpose" (purpose ->
        steps) and "provenance" (such as "commit", "date", "machine", "command", "seeds",
        "exploration"). A row: "policy", "real_mean", "real_ci95" [low, high], "learned_mean",
        "learned_ci95" (returns in task units), "real_steps", "episodes", "past_threshold_share"
        (share of learned steps out of distribution, 0..1). Missing or None values become dashes.
    curves: open-loop errors: "horizon" [1..H] in steps; "twin", "hold_last", "linear": (H,) root mean square errors
        in "unit"; None: those in `fidelity`.
    stages: {"stage" (or "name"), "seconds"} in the order they ran.
    frames: (H, W, 3) uint8 each, learned and real side by side, in time order.
    rounds: logs of the rounds of a refinement, as `world_env.reporting.plots.rounds` takes them.
    fidelity: fidelity of the twin; adds its warnings, agreement, predicted returns, open-loop errors and effects of
        actions, as far as they were measured. None: the page shows the comparison alone.
    Raises MissingExtraError, and StageError for a comparison without rows or a folder that cannot be written.
    """
    rows = comparison.get("rows")
    if not rows:
        raise StageError(
            "the comparison has no rows, expected at least one policy: run `world-env compare` first"
        )
    if curves is None or at(fidelity, "horizons") is not None:
        curves = curves_from(fidelity) or curves
    urgent = comparison_warnings(rows)
    warnings = urgent or None
    if fidelity is not None:
        warnings = warnings_of({**fidelity, "comparison": rows})
    provenance, settings = _provenance(comparison)
    page: dict[str, Any] = {
        "title": title,
        "env_id": comparison.get("env_id", "unknown"),
        "episodes": number(comparison.get("episodes")),
        "warnings": warnings,
        "urgent": len(urgent),
        "summary": summary(comparison, curves),
        "table": [list(_HEAD), *map(_cells, rows)],
        "note": _note(comparison),
        "plots": _plots(comparison, curves, fidelity, rounds),
        "sections": _sections(fidelity, curves),
        "strip": plots.strip(frames),
        "stages": [_stage(stage) for stage in stages],
        "purposes": _purposes(comparison),
        "provenance": provenance,
        "settings": settings,
    }
    folder = Path(folder_out)
    write_text(folder / "report.md", _render_markdown(page))
    write_text(folder / "report.html", _render_html(page))
    return folder / "report.html"


def read_comparison(path: Path) -> JSON:
    """Read the comparison.json of `compare` or `build`. Raises StageError for any other file."""
    try:
        tree = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(tree, dict) or not all("policy" in row for row in tree["rows"]):
            raise ValueError('expected an object with "rows", and a "policy" in each row')
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StageError(
            f"{path} is not a comparison ({type(error).__name__}: {error}): expected the comparison.json of `world-env "
            "compare` or `world-env build`"
        ) from error
    return tree


def curves_from(fidelity: Any) -> JSON | None:
    """Curves of `write_report` from the fidelity of a twin; None where they were not measured."""
    return error_curves(fidelity)


def summary(comparison: JSON, curves: JSON | None) -> list[str]:
    """Main results in sentences: the best policy trained in the twin, the baselines, the open-loop error.

    Without a policy trained in the twin, the policy with the highest real return takes its place.
    """
    rows = [row for row in comparison["rows"] if number(row.get("real_mean")) is not None]
    if not rows:
        return ["No policy was evaluated in the real environment.", _curve_sentence(curves)]
    both = [row for row in rows if number(row.get("learned_mean")) is not None]
    trained = [row for row in both if is_trained_in_twin(row["policy"])]
    best = max(trained or both or rows, key=lambda row: row["real_mean"])
    baselines = [row for row in rows if row is not best and is_baseline(row["policy"])]
    sentences = [_result(best), _gap_sentence(best)]
    if trained and baselines:
        baselines.sort(key=lambda row: row["real_mean"], reverse=True)
        returns = (f"{policy_label(row['policy'])} {_real(row)}" for row in baselines)
        sentences.append(f"Baselines, real return: {'; '.join(returns)}.")
    return [*sentences, _curve_sentence(curves)]


def _real(row: Mapping[str, Any]) -> str:
    return with_ends(row, "real_mean", "real_ci95")


def _result(row: Mapping[str, Any]) -> str:
    learned = with_ends(row, "learned_mean", "learned_ci95")
    text = f"{policy_label(row['policy'])}: real return {_real(row)}"
    return text + ("." if learned == DASH else f", learned return {learned}.")


def _gap_sentence(row: Mapping[str, Any]) -> str:
    gap = _return_gap(row)
    if gap is None:
        return "This policy was not evaluated in the twin."
    real, learned = interval(row.get("real_ci95")), interval(row.get("learned_ci95"))
    overlap = ""
    if gap and real is not None and learned is not None:
        apart = learned[0] > real[1] or real[0] > learned[1]
        overlap = f"; the 95 % intervals {'do not overlap' if apart else 'overlap'}"
    return f"Return gap (learned minus real): {_signed(gap)}{overlap}."


def _return_gap(row: Mapping[str, Any]) -> float | None:
    real, learned = number(row.get("real_mean")), number(row.get("learned_mean"))
    return None if real is None or learned is None else learned - real


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + show(value)


def _curve_sentence(curves: JSON | None) -> str:
    if not curves or not curves.get("twin"):
        return "The open-loop error of the twin was not measured."
    steps, twin = curves["horizon"], curves["twin"]
    unit = curves.get("unit")
    text = f"Open-loop error after {steps[-1]} steps: {show(twin[-1])}{f' {unit}' if unit else ''}"
    held, last = number((curves.get("hold_last") or [None])[-1]), number(twin[-1])
    sampled = curves.get("drawn")
    if sampled:
        # A sampled prediction has a larger error than the mean of all samples: only the energy score compares them.
        held, last = sampled["hold_energy"], sampled["energy"]
        text += (
            f". Energy score of sampled predictions after {sampled['steps']} steps: {show(last)}"
        )
    if held is None:
        return text + "."
    order = "lower than" if last is not None and last < held else "not lower than"
    return f"{text}, {order} that of holding the last observation ({show(held)})."


def _note(comparison: JSON) -> str:
    """Legend of the table of returns."""
    episodes = number(comparison.get("episodes"))
    count = "" if episodes is None else f" over {show(episodes)} episodes"
    return (
        f"Returns are means{count} in task units, with 95 % intervals in brackets. Return gap: learned minus real "
        "return. Real steps: steps in the real environment that the policy needed, without the final evaluation. Out "
        "of distribution: share of the learned steps with an uncertainty above its maximum on the training data. "
        f"{DASH}: not measured."
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    gap = _return_gap(row)
    return [
        policy_label(row["policy"]),
        _real(row),
        with_ends(row, "learned_mean", "learned_ci95"),
        DASH if gap is None else _signed(gap),
        show(row.get("real_steps")),
        percent(row.get("past_threshold_share")),
    ]


def _plots(
    comparison: JSON, curves: JSON | None, fidelity: Any, rounds: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str, str]]:
    """(image, alternative text, caption) of each plot whose numbers were measured."""
    pool = plots.agreement_scatter(fidelity)
    found = [
        (
            None if pool else plots.scatter(comparison["rows"]),
            "Learned return against real return of each compared policy",
            _COMPARED_CAPTION,
        ),
        (pool, "Learned return against real return of each evaluated policy", _POOL_CAPTION),
        (
            plots.predicted_returns(fidelity),
            "Interval of the predicted return and real return of each policy",
            _PREDICTION_CAPTION,
        ),
        (plots.rounds(rounds), "Predicted and real return after each round", _ROUNDS_CAPTION),
        (plots.curve(curves), "Open-loop error by the number of steps", _CURVE_CAPTION),
        (
            plots.survival(fidelity),
            "Share of running episodes by the number of steps, real and learned",
            _SURVIVAL_CAPTION,
        ),
    ]
    return [(image, text, caption) for image, text, caption in found if image is not None]


def _sections(fidelity: Any, curves: JSON | None) -> list[JSON]:
    """Measured accuracy of the twin: {"title", "texts", "table", "folded"} each."""
    unit = (curves or {}).get("unit") or "the units of the observations"
    found: list[tuple[str, list[str], Table, bool]] = [
        ("Predicted return", [prediction_text(fidelity)], coverage_table(fidelity), False),
        (
            "Agreement over a policy pool",
            [pool_text(fidelity), AGREEMENT_NOTE],
            agreement_table(fidelity),
            False,
        ),
        ("Effect of actions", [_EFFECT_TEXT], effect_table(fidelity), False),
        (
            "Open-loop error by the number of steps",
            [f"Root mean square error on the validation split, in {unit}."],
            error_table(curves),
            True,
        ),
        ("All evaluated policies", [], points_table(fidelity), True),
    ]
    return [
        {
            "title": title,
            "texts": [text for text in texts if text],
            "table": table,
            "folded": folded,
        }
        for title, texts, table, folded in found
        if table or (title == "Predicted return" and any(texts))
    ]


def _stage(stage: Mapping[str, Any]) -> tuple[str, str, float]:
    """(name, seconds as text, seconds for the bar); the total of all stages has no bar."""
    name, seconds = str(stage.get("stage", stage.get("name", "?"))), stage.get("seconds")
    if name == "all":
        return "total", show(seconds), 0.0
    return name, show(seconds), number(seconds) or 0.0


def _purposes(comparison: JSON) -> list[tuple[str, str, str]]:
    return [
        (purpose, _PURPOSES.get(purpose, DASH), show(steps))
        for purpose, steps in (comparison.get("real_steps_by_purpose") or {}).items()
    ]


def _provenance(comparison: JSON) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(main facts, all other recorded settings), each as (name, text)."""
    recorded = dict(comparison.get("provenance") or {})
    facts = {
        "real environment steps": real_steps_text(recorded),
        "exploration": exploration_text(recorded),
        "seeds": seeds_text(recorded),
        **{name: recorded.get(name) for name in _PROVENANCE},
    }
    shown = ("real_steps", "exploration", "seeds", "seed", *_PROVENANCE)
    return (
        [(name, _text(value)) for name, value in facts.items() if value is not None],
        [(name, _text(recorded[name])) for name in sorted(recorded) if name not in shown],
    )


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return (
            ", ".join(map(_text, value)) if len(value) <= _LIST_LIMIT else f"{len(value)} entries"
        )
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(entry)}" for key, entry in value.items()) or DASH
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
    return template.render(**page, no_warning=NO_WARNING, longest=longest)


def _render_markdown(page: Mapping[str, Any]) -> str:
    lines = [f"# {page['title']}", "", f"Real environment: {page['env_id']}.", ""]
    if page["warnings"] is not None:
        texts = page["warnings"] or [NO_WARNING]
        lines += ["## Warnings", "", *(f"- {text}" for text in texts), ""]
    lines += ["## Results", "", " ".join(page["summary"]), ""]
    lines += [*markdown_table(page["table"]), "", page["note"], ""]
    if page["plots"] or page["strip"]:
        lines += ["Plots and frames: see `report.html`, beside this file.", ""]
    for section in page["sections"]:
        lines += [f"## {section['title']}", ""]
        for part in (*([text] for text in section["texts"]), markdown_table(section["table"])):
            lines += [*part, ""] if part else []
    if page["purposes"]:
        head = ["purpose", "used for", "real environment steps"]
        table = markdown_table([head, *map(list, page["purposes"])])
        lines += ["## Real environment steps by purpose", "", *table, ""]
    if page["stages"]:
        table = markdown_table([["stage", "seconds"], *([*stage[:2]] for stage in page["stages"])])
        lines += ["## Duration", "", *table, ""]
    for title, facts in (("Provenance", page["provenance"]), ("Other settings", page["settings"])):
        if facts:
            lines += [f"## {title}", "", *(f"- {name}: {value}" for name, value in facts), ""]
    return "\n".join(lines)
