"""Report page of a comparison: a self-contained HTML file and the same content in Markdown."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from world_env.atomic_io import write_text
from world_env.errors import StageError
from world_env.reporting import plots
from world_env.results.comparison import (
    Comparison,
    PolicyComparison,
    is_baseline,
    is_trained_in_twin,
)
from world_env.results.error_curves import ErrorCurves, error_curves
from world_env.results.fidelity import Fidelity
from world_env.results.formatting import DASH, percent, show
from world_env.results.provenance import Provenance
from world_env.results.round_log import RoundLog
from world_env.twin.fidelity_tables import (
    AGREEMENT_NOTE,
    Table,
    agreement_table,
    coverage_table,
    effect_table,
    error_table,
    points_table,
    pool_text,
    prediction_text,
)
from world_env.twin.model_card import render
from world_env.twin.provenance_text import exploration_text, real_steps_text, seeds_text
from world_env.twin.warning_rules import comparison_warnings, warnings_of

_TEMPLATES = Path(__file__).with_name("templates")
_HEAD = (
    *("policy", "real return [95 %]", "learned return [95 %]", "return gap", "real steps"),
    "out of distribution",
)
_JUDGING = "judging steps"
_EFFECT_TEXT = (
    "Different actions from the same real states: size of their effect on the observation, and error of the effect "
    "that the twin predicts. An error of 100 % is that of predicting no effect."
)
_PURPOSES = {
    "collect": "data of the twin, and training of baselines in the real environment",
    "validate": "validation of the twin, and the check of the environment",
    "select": "selection of policies",
    "evaluate": "real evaluation episodes, diagnostics and videos",
    "judge": "final evaluation of the policies",
}
"""Purposes of `real.step_ledger.PURPOSES` in words."""
_FACTS = ("command", "commit", "date", "machine")
_LIST_LIMIT = 8
"""Entries of a recorded list that the page shows; of a longer one it shows the number."""


def write_report(
    folder_out: str | os.PathLike[str],
    *,
    title: str,
    comparison: Comparison,
    fidelity: Fidelity | None = None,
    provenance: Provenance | None = None,
    stages: Sequence[tuple[str, float]] = (),
    frames: Sequence[np.ndarray] = (),
    rounds: Sequence[RoundLog] = (),
) -> Path:
    """Write `report.html` and `report.md`, each self-contained; returns the path of the HTML file.

    fidelity: fidelity of the twin; adds its warnings, agreement, predicted returns, open-loop errors and effects of
        actions, as far as they were measured. None: the page shows the comparison alone.
    provenance: origin of the twin; commit, date, machine and command are those of the comparison, where it has them.
    stages: (stage, seconds) in the order they ran; the stage "all" is their total.
    frames: (H, W, 3) uint8 each, learned and real side by side, in time order.
    rounds: logs of the rounds of a refinement.
    Raises MissingExtraError, and StageError for a comparison without rows or a folder that cannot be written.
    """
    if not comparison.rows:
        raise StageError(
            "the comparison has no rows, expected at least one policy: run `world-env compare` first"
        )
    curves = None if fidelity is None else error_curves(fidelity)
    urgent = comparison_warnings(comparison.rows)
    warnings = urgent or None
    if fidelity is not None:
        warnings = warnings_of(fidelity.replace(comparison=comparison.rows))
    provenance = provenance or Provenance()
    if comparison.provenance is not None:
        provenance = provenance.replace(**msgspec.structs.asdict(comparison.provenance))
    facts, settings = _provenance(provenance)
    page: dict[str, Any] = {
        "title": title,
        "comparison": comparison,
        "warnings": warnings,
        "urgent": len(urgent),
        "summary": summary(comparison, curves),
        "table": _table(comparison),
        "plots": plots.all_plots(comparison, curves, fidelity, rounds),
        "sections": _sections(fidelity or Fidelity(), curves),
        "strip": plots.strip(frames),
        "stages": stages,
        "longest": max((seconds for name, seconds in stages if name != "all"), default=0.0) or 1.0,
        "purposes": _purposes(comparison.real_steps_by_purpose),
        "provenance": facts,
        "settings": settings,
    }
    folder = Path(folder_out)
    for name in ("report.md", "report.html"):
        write_text(folder / name, render(f"{name}.jinja", _TEMPLATES, **page))
    return folder / "report.html"


def read_comparison(path: Path) -> Comparison:
    """Read the comparison.json of `compare` or `build`. Raises StageError for any other file."""
    try:
        tree = json.loads(Path(path).read_text(encoding="utf-8"))
        return Comparison.from_json(tree, where=str(path), error=StageError)
    except (OSError, ValueError, StageError) as error:
        raise StageError(
            f"{path} is not a comparison ({error}): expected the comparison.json of `world-env compare` or `world-env "
            "build`"
        ) from error


def summary(comparison: Comparison, curves: ErrorCurves | None) -> list[str]:
    """Main results in sentences: the best policy trained in the twin, the baselines, the open-loop error.

    Without a policy trained in the twin, the policy with the highest real return takes its place.
    """
    both = [row for row in comparison.rows if row.learned_mean is not None]
    trained = [row for row in both if is_trained_in_twin(row.policy)]
    best = max(trained or both or comparison.rows, key=lambda row: row.real_mean)
    baselines = [row for row in comparison.rows if row is not best and is_baseline(row.policy)]
    learned = "" if best.learned_mean is None else f", learned return {best.learned_text}"
    sentences = [f"{best.label}: real return {best.real_text}{learned}.", _gap_sentence(best)]
    others = [row for row in trained if row is not best]
    sentences += [
        f"{row.label}: {show(row.real_steps)} real steps, real return {row.real_text}."
        for row in others
    ]
    if trained and baselines:
        baselines.sort(key=lambda row: row.real_mean, reverse=True)
        returns = (f"{row.label} {row.real_text}" for row in baselines)
        sentences.append(f"Baselines, real return: {'; '.join(returns)}.")
    return [*sentences, _curve_sentence(curves)]


def _gap_sentence(row: PolicyComparison) -> str:
    if row.return_gap is None:
        return "This policy was not evaluated in the twin."
    overlap = ""
    if row.return_gap and row.learned_ci95 is not None and row.real_ci95 is not None:
        apart = row.learned_ci95[0] > row.real_ci95[1] or row.real_ci95[0] > row.learned_ci95[1]
        overlap = f"; the 95 % intervals {'do not overlap' if apart else 'overlap'}"
    return f"Return gap (learned minus real): {row.gap_text}{overlap}."


def _curve_sentence(curves: ErrorCurves | None) -> str:
    if curves is None:
        return "The open-loop error of the twin was not measured."
    last, held = (curves.series[name][-1] for name in ("twin", "hold_last"))
    text = f"Open-loop error after {curves.steps[-1]} steps: {show(last)} {curves.unit}"
    if curves.sampled is not None:
        # A sampled prediction has a larger error than the mean of all samples: only the energy score compares them.
        steps, last, held = curves.sampled
        text += f". Energy score of sampled predictions after {steps} steps: {show(last)}"
    if held is None:
        return text + "."
    order = "lower than" if last is not None and last < held else "not lower than"
    return f"{text}, {order} that of holding the last observation ({show(held)})."


def _table(comparison: Comparison) -> Table:
    """The compared policies; with the real steps of their final evaluation beside those that they needed, if known."""
    lines = [list(_HEAD), *map(_cells, comparison.rows)]
    if comparison.judging_steps:
        place = _HEAD.index("real steps") + 1
        judging = [show(comparison.judging_steps.get(row.policy)) for row in comparison.rows]
        for line, cell in zip(lines, [_JUDGING, *judging], strict=True):
            line.insert(place, cell)
    return lines


def _purposes(steps: dict[str, int]) -> list[tuple[str, str, str]]:
    """Rows of the table of real steps: one for each purpose, and their sums with and without the final evaluation."""
    rows = [(purpose, _PURPOSES.get(purpose, DASH), show(n)) for purpose, n in steps.items()]
    if not rows:
        return rows
    total = sum(steps.values())
    if judged := steps.get("judge", 0):
        rows.append(("sum", "without the final evaluation", show(total - judged)))
    return [*rows, ("sum", "all real environment steps", show(total))]


def _cells(row: PolicyComparison) -> list[str]:
    return [
        row.label,
        row.real_text,
        row.learned_text,
        row.gap_text,
        show(row.real_steps),
        percent(row.past_threshold_share),
    ]


def _sections(fidelity: Fidelity, curves: ErrorCurves | None) -> list[dict[str, Any]]:
    """Measured accuracy of the twin: {"title", "texts", "table", "folded"} each."""
    unit = "" if curves is None else curves.unit
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
        {"title": title, "texts": texts, "table": table, "folded": folded}
        for title, texts, table, folded in found
        if table or (title == "Predicted return" and any(texts))
    ]


def _provenance(provenance: Provenance) -> tuple[dict[str, str], dict[str, str]]:
    """(main facts, all other recorded settings) as texts."""
    tree = provenance.to_json()
    facts = {
        "real environment steps": real_steps_text(provenance),
        "exploration": exploration_text(provenance),
        "seeds": seeds_text(provenance),
        **{name: tree.pop(name, None) for name in _FACTS},
    }
    for name in ("real_steps", "exploration", "seeds"):
        tree.pop(name, None)
    tree |= tree.pop("stages", {})
    return (
        {name: text for name, text in facts.items() if text is not None},
        {name: _text(tree[name]) for name in sorted(tree)},
    )


def _text(value: Any) -> str:
    if isinstance(value, list):
        return (
            ", ".join(map(_text, value)) if len(value) <= _LIST_LIMIT else f"{len(value)} entries"
        )
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(entry)}" for key, entry in value.items()) or DASH
    return DASH if value is None else str(value)
