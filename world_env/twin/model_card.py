"""The card of a twin: what it was made from, what was measured, and what it must not be used for.

`Twin.save` writes it beside the twin, from what twin.json stores and nothing else; nothing reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from world_env.spec import WorldSpec
from world_env.twin.fidelity import at, error_curves, number, rows_of, show
from world_env.twin.fidelity_tables import (
    KINDS_SAID,
    Table,
    agreement_table,
    coverage_table,
    effect_table,
    error_table,
    markdown_table,
    pool_text,
    prediction_text,
    with_ends,
)
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
    """Markdown of a card. known: outcomes that come from known functions."""
    facts = [["", ""], *_data(spec, provenance, known)]
    warnings = warnings_of(fidelity, horizon=spec.horizon, known=known)
    lines = [
        f"# Twin of {spec.real_id or 'a world without an id'}",
        "",
        f"A learned simulator of the family `{family}`. Written at every save from `twin.json`, which holds it all.",
        "",
        *_section("Data", markdown_table(facts), _notes(fidelity)),
        *_section("Agreement", *_agreement(fidelity)),
        *_section("Predicted return", _promise(fidelity)),
        *_section("Trusted horizon", _horizon(spec, fidelity), _ends(fidelity)),
        *_section("Warnings", _bullets(warnings) or [NO_WARNING]),
        *_section("Must not be used for", _bullets(misuses(fidelity, horizon=spec.horizon))),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def card_of(tree: JSON) -> str:
    """The card of a twin, from the checked content of its twin.json."""
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


def _data(spec: WorldSpec, provenance: JSON, known: Sequence[str]) -> Table:
    seeds = provenance.get("seeds", provenance.get("seed"))
    found = {
        "real steps": provenance.get("real_steps"),
        "episodes": provenance.get("episodes"),
        "exploration": provenance.get("exploration"),
        "seeds": ", ".join(map(str, seeds)) if isinstance(seeds, list | tuple) else seeds,
        "commit": provenance.get("commit"),
        "time limit": "none" if spec.horizon is None else f"{spec.horizon} steps",
        "known functions": ", ".join(known) or None,
    }
    optional = ("episodes", "known functions")
    return [
        [name, "unknown" if value is None else str(value)]
        for name, value in found.items()
        if value is not None or name not in optional
    ]


def _notes(fidelity: Any) -> list[str]:
    notes = at(fidelity, "notes")
    return _bullets(notes) if isinstance(notes, list | tuple) else []


def _agreement(fidelity: Any) -> list[list[str]]:
    table = agreement_table(fidelity)
    lines = ["No policy pool has been judged."]
    if table:
        lines = [KINDS_SAID]
    pool = pool_text(fidelity)
    returns = _returns(rows_of(at(fidelity, "comparison")))
    return [[pool] if pool else [], lines, markdown_table(table), returns]


def _promise(fidelity: Any) -> list[str]:
    text, table = prediction_text(fidelity), markdown_table(coverage_table(fidelity))
    if not text:
        return [
            "None was calibrated: a return in this twin says nothing of how far reality may be."
        ]
    return [text, *([""] if table else []), *table]


def _horizon(spec: WorldSpec, fidelity: Any) -> list[str]:
    curves = error_curves(fidelity)
    trusted = None if curves is None else number(curves.get("trusted"))
    episode = "has no time limit" if spec.horizon is None else f"has up to {spec.horizon}"
    lines = [
        "Not measured." if trusted is None else f"{show(trusted)} steps; an episode {episode}."
    ]
    table = markdown_table(error_table(curves))
    if table and curves is not None:
        said = f", {curves['unit']}" if curves["unit"] else ""
        lines += [
            "",
            f"Error without seeing reality again, on held-out episodes{said}:",
            "",
            *table,
        ]
    reward = number(at(fidelity, "reward_error"))
    if reward is not None:
        lines += ["", f"Error of one step's reward: {show(reward)} task units."]
    effects = markdown_table(effect_table(fidelity))
    return lines + (
        ["", "What another action would have changed:", "", *effects] if effects else []
    )


def _ends(fidelity: Any) -> list[str]:
    labels = number(at(fidelity, "termination", "terminal_labels"))
    if labels is None:
        return []
    scores = [
        f"{name} {show(value)}"
        for name in ("precision", "recall", "brier")
        if (value := number(at(fidelity, "termination", name))) is not None
    ]
    lines = [f"Ends of episodes: {show(labels)} held-out ones; {', '.join(scores) or 'no score'}."]
    bounds = at(fidelity, "termination", "bounds")
    if isinstance(bounds, list | tuple) and bounds:
        lines += ["", "Every episode of the data ended, and so does this twin's, with:", ""]
        lines += _bullets(bounds)
    return lines


def _returns(rows: list[JSON]) -> list[str]:
    table = [
        [
            str(row.get("policy")),
            with_ends(row, "real_mean", "real_ci95"),
            with_ends(row, "learned_mean", "learned_ci95"),
        ]
        for row in rows
    ]
    if not table:
        return []
    head = ["policy", "real return [95 %]", "learned return [95 %]"]
    return ["Policies that were judged at the end:", "", *markdown_table([head, *table])]
