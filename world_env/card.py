"""The card of a twin: what it was made from, what was measured, and what it must not be used for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from world_env.spec import JSON, WorldSpec


def card_text(*, family: str, spec: WorldSpec, provenance: JSON, fidelity: JSON) -> str:
    """Markdown of a card, from what the twin stores and nothing else."""
    curve = fidelity.get("open_loop", {})
    lines = [
        f"# Twin of {spec.real_id or 'a dataset'}",
        "",
        f"A learned simulator of the family `{family}`. Weights: Apache-2.0.",
        "",
        "| | |",
        "|---|---|",
        f"| real steps | {provenance.get('real_steps', 'unknown')} |",
        f"| exploration | {provenance.get('exploration', 'unknown')} |",
        f"| seed | {provenance.get('seed', 'unknown')} |",
        f"| commit | {provenance.get('commit', 'unknown')} |",
        f"| horizon | {spec.horizon} steps |",
        "",
        "## Measured on held-out episodes",
        *_curve_lines(curve),
        f"- one-step reward error: {_number(fidelity.get('reward_error'))} task units",
        *(f"- {name}: {_number(value)}" for name, value in fidelity.get("termination", {}).items()),
        "",
        *_comparison_lines(fidelity.get("comparison", [])),
        "## Limits",
        *(f"- {note}" for note in fidelity.get("notes", [])),
        "- Known only where its data went: an uncertainty above the twin's threshold means that it is guessing.",
        "- A return in the twin of a policy trained in the twin is a promise, not a measurement; judge it in reality.",
        "- Not for decisions about anything that can be harmed.",
        "",
    ]
    return "\n".join(lines)


def write_card(twin: Any, folder: Path) -> Path:
    """Write `card.md` of a twin into its folder."""
    path = folder / "card.md"
    text = card_text(
        family=twin.family, spec=twin.spec, provenance=twin.provenance, fidelity=twin.fidelity
    )
    path.write_text(text, encoding="utf-8")
    return path


def _curve_lines(curve: JSON) -> list[str]:
    error, still = curve.get("error", []), curve.get("hold_last", [])
    return [
        f"- open-loop error after {step} steps: {_number(error[step - 1])} standard deviations "
        f'("nothing moves": {_number(still[step - 1])})'
        for step in (1, 10, 50, 200)
        if step <= len(error)
    ]


def _comparison_lines(rows: list[JSON]) -> list[str]:
    if not rows:
        return []
    lines = ["## Returns", "| policy | real [95 %] | learned [95 %] |", "|---|---|---|"]
    for row in rows:
        real, learned = (
            f"{_number(row[f'{side}_mean'])} {[round(end, 1) for end in row[f'{side}_ci95'] or ()]}"
            for side in ("real", "learned")
        )
        lines.append(f"| {row['policy']} | {real} | {learned} |")
    return [*lines, ""]


def _number(value: float | int | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
