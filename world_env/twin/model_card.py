"""Model card of a twin: warnings, returns, data, measured accuracy and out-of-scope uses.

`Twin.save` writes the card beside the twin, from twin.json alone. No code reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from world_env.spec import WorldSpec
from world_env.twin.fidelity import at, error_curves, number, rows_of, show
from world_env.twin.fidelity_tables import (
    AGREEMENT_NOTE,
    Table,
    agreement_table,
    coverage_table,
    effect_table,
    error_table,
    markdown_table,
    policy_label,
    pool_text,
    prediction_text,
    with_ends,
)
from world_env.twin.provenance_text import exploration_text, real_steps_text, seeds_text
from world_env.twin.warning_rules import NO_WARNING, misuses, warnings_of
from world_env.types import JSON


def card_text(
    *,
    family: str,
    spec: WorldSpec,
    provenance: JSON,
    fidelity: JSON,
    known: Sequence[str] = (),
) -> str:
    """Markdown of a model card. known: outcomes computed by known functions ("reward", "termination")."""
    warnings = warnings_of(fidelity, horizon=spec.horizon, known=known)
    lines = [
        f"# Twin of {spec.real_id or at(provenance, 'real', 'env_id') or 'logged data'}",
        "",
        f"A learned simulator. World model family: `{family}`. Generated from `twin.json` at every save.",
        "",
        *_section("Warnings", _bullets(warnings) or [NO_WARNING]),
        *_section("Real and learned returns", *_returns(fidelity)),
        *_section("Data", markdown_table(_data(spec, provenance, known)), _notes(fidelity)),
        *_section("Agreement over a policy pool", *_agreement(fidelity)),
        *_section("Predicted return", _prediction(fidelity)),
        *_section("Open-loop accuracy", _horizon(spec, fidelity), _ends(fidelity)),
        *_section("Out-of-scope uses", _bullets(misuses(fidelity, horizon=spec.horizon))),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def card_of(tree: JSON) -> str:
    """Card of a twin, from the checked content of its twin.json."""
    return card_text(
        family=tree["family"],
        spec=WorldSpec.from_json(tree["spec"]),
        provenance=tree["provenance"],
        fidelity=tree["fidelity"],
        known=tree["known"],
    )


def _section(title: str, *parts: list[str]) -> list[str]:
    return [f"## {title}", "", *(line for part in parts if part for line in [*part, ""])]


def _bullets(texts: Sequence[Any]) -> list[str]:
    return [f"- {' '.join(str(text).split())}" for text in texts]


def _returns(fidelity: Any) -> list[list[str]]:
    rows = [
        [
            policy_label(row.get("policy")),
            with_ends(row, "real_mean", "real_ci95"),
            with_ends(row, "learned_mean", "learned_ci95"),
        ]
        for row in rows_of(at(fidelity, "comparison"))
    ]
    if not rows:
        return [["No policy was evaluated in the twin and in the real environment."]]
    episodes = number(at(fidelity, "judged"))
    count = "" if episodes is None else f" over {show(episodes)} episodes"
    text = f"Mean returns{count} in task units, with 95 % intervals."
    head = ["policy", "real return [95 %]", "learned return [95 %]"]
    return [[text], markdown_table([head, *rows])]


def _data(spec: WorldSpec, provenance: JSON, known: Sequence[str]) -> Table:
    episodes = number(provenance.get("episodes"))
    found = {
        "real environment steps": real_steps_text(provenance),
        "episodes": None if episodes is None else show(episodes),
        "exploration": exploration_text(provenance),
        "seeds": seeds_text(provenance),
        "commit": provenance.get("commit"),
        "time limit": "none" if spec.horizon is None else f"{show(spec.horizon)} steps",
        "known functions": ", ".join(known) or None,
    }
    optional = ("episodes", "known functions")
    rows = [
        [name, "unknown" if value is None else str(value)]
        for name, value in found.items()
        if value is not None or name not in optional
    ]
    return [["property", "value"], *rows]


def _notes(fidelity: Any) -> list[str]:
    notes = at(fidelity, "notes")
    return _bullets(notes) if isinstance(notes, list | tuple) else []


def _agreement(fidelity: Any) -> list[list[str]]:
    table, pool = agreement_table(fidelity), pool_text(fidelity)
    text = AGREEMENT_NOTE if table else "No policy pool was evaluated."
    return [[pool] if pool else [], [text], markdown_table(table)]


def _prediction(fidelity: Any) -> list[str]:
    text, table = prediction_text(fidelity), markdown_table(coverage_table(fidelity))
    if not text:
        return [
            "Not calibrated: the difference between a learned return and the real return is unknown."
        ]
    return [text, *([""] if table else []), *table]


def _horizon(spec: WorldSpec, fidelity: Any) -> list[str]:
    curves = error_curves(fidelity)
    trusted = None if curves is None else number(curves.get("trusted"))
    limit = "has no time limit" if spec.horizon is None else f"has up to {show(spec.horizon)}"
    lines = ["Trusted horizon: not measured."]
    if trusted is not None:
        lines = [
            f"Trusted horizon: {show(trusted)} steps; an episode {limit}. Up to this step, the open-loop error is "
            "at most half the error of holding the last observation, and at most 0.5 standard deviations of the data."
        ]
    table = markdown_table(error_table(curves))
    if table and curves is not None:
        unit = f", in {curves['unit']}" if curves["unit"] else ""
        lines += ["", f"Open-loop error on the validation split{unit}:", "", *table]
    reward = number(at(fidelity, "reward_error"))
    if reward is not None:
        lines += ["", f"Mean absolute error of the reward: {show(reward)} task units per step."]
    effects = markdown_table(effect_table(fidelity))
    return lines + (["", "Predicted effect of other actions:", "", *effects] if effects else [])


def _ends(fidelity: Any) -> list[str]:
    labels = number(at(fidelity, "termination", "terminal_labels"))
    if labels is None:
        return []
    scores = [
        f"{label} {show(value)}"
        for label, name in (
            ("precision", "precision"),
            ("recall", "recall"),
            ("Brier score", "brier"),
        )
        if (value := number(at(fidelity, "termination", name))) is not None
    ]
    lines = [
        f"Terminations in the validation split: {show(labels)}; {', '.join(scores) or 'no score'}."
    ]
    bounds = at(fidelity, "termination", "bounds")
    if isinstance(bounds, list | tuple) and bounds:
        lines += ["", "Hard termination bounds (every data episode beyond one of them ended):", ""]
        lines += _bullets(bounds)
    return lines
