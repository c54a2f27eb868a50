"""Model card of a twin: warnings, returns, data, measured accuracy and out-of-scope uses.

`Twin.save` writes the card beside the twin. No code reads it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from world_env.results import formatting
from world_env.results.error_curves import error_curves
from world_env.results.fidelity import Fidelity, TerminationScores
from world_env.results.formatting import show
from world_env.results.provenance import Provenance
from world_env.spec import WorldSpec
from world_env.twin.fidelity_tables import (
    AGREEMENT_NOTE,
    Table,
    agreement_table,
    coverage_table,
    effect_table,
    error_table,
    pool_text,
    prediction_text,
    returns_table,
    termination_rule_text,
)
from world_env.twin.provenance_text import exploration_text, real_steps_text, seeds_text
from world_env.twin.warning_rules import NO_WARNING, misuses, warnings_of

_TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, *folders: Path, **values: Any) -> str:
    """Render a template of this room, or of one of `folders`, whose templates can import the macros of this room.

    Runs of blank lines become one.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([_TEMPLATES, *folders]),
        autoescape=template.endswith(".html.jinja"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {name: getattr(formatting, name) for name in ("show", "percent")}
    environment.filters["markdown_cell"] = _markdown_cell
    environment.globals |= {
        "AGREEMENT_NOTE": AGREEMENT_NOTE,
        "DASH": formatting.DASH,
        "NO_WARNING": NO_WARNING,
    }
    text = environment.get_template(template).render(values)
    return re.sub(r"\n\s*\n", "\n\n", text).strip() + "\n"


def card_text(
    *,
    family: str,
    spec: WorldSpec,
    provenance: Provenance,
    fidelity: Fidelity,
    known: Sequence[str] = (),
) -> str:
    """Markdown of a model card. known: outcomes computed by known functions ("reward", "termination")."""
    return render(
        "card.md.jinja",
        family=family,
        spec=spec,
        provenance=provenance,
        fidelity=fidelity,
        warnings=warnings_of(fidelity, horizon=spec.horizon, known=known),
        returns=returns_table(fidelity),
        data=_data(spec, provenance, known),
        pool=pool_text(fidelity),
        agreement=agreement_table(fidelity),
        prediction=prediction_text(fidelity),
        coverage=coverage_table(fidelity),
        curves=error_curves(fidelity),
        errors=error_table(error_curves(fidelity)),
        effects=effect_table(fidelity),
        scores=_scores_text(fidelity.termination),
        termination_rule=termination_rule_text(fidelity),
        misuses=misuses(fidelity, horizon=spec.horizon),
    )


def _markdown_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _data(spec: WorldSpec, provenance: Provenance, known: Sequence[str]) -> Table:
    found = {
        "real environment steps": real_steps_text(provenance) or "unknown",
        "episodes": None if provenance.episodes is None else show(provenance.episodes),
        "exploration": exploration_text(provenance) or "unknown",
        "seeds": seeds_text(provenance) or "unknown",
        "commit": provenance.commit or "unknown",
        "time limit": "none" if spec.horizon is None else f"{show(spec.horizon)} steps",
        "known functions": ", ".join(known) or None,
        "angles": ", ".join(_angles(spec)) or None,
    }
    rows = [[name, value] for name, value in found.items() if value is not None]
    return [["property", "value"], *rows]


def _angles(spec: WorldSpec) -> list[str]:
    """Names of the columns that the twin encodes as cosine and sine, with the range in which they wrap."""
    return [
        f"{key}[{column}] in [{show(low)}, {show(low + period)})"
        for key, angles in spec.angles.items()
        for column, low, period in angles
    ]


def _scores_text(scores: TerminationScores | None) -> str:
    if scores is None:
        return ""
    found = {
        "precision": scores.precision,
        "recall": scores.recall,
        "Brier score": scores.brier,
    }
    known = [f"{label} {show(value)}" for label, value in found.items() if value is not None]
    return ", ".join(known) or "no score"
