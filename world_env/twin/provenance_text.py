"""Provenance of a twin's data as text: real environment steps, exploration, seeds."""

from __future__ import annotations

import math
from pathlib import PurePosixPath
from typing import Any

from world_env.twin.fidelity import at, number, percent, show

_EXPLORING_POLICIES = {
    "{policy}": "the previous round's policy",
    "{newest}": "the previous round's newest policy",
}
"""Placeholders of a refinement's exploration. Any other placeholder names a policy trained for exploration only."""


def exploration_text(provenance: Any) -> str | None:
    """Exploration that collected the data, in words; None where it is not recorded.

    It comes from the twin's own provenance, or from that of the data set that the twin was fitted to.
    """
    dataset = at(provenance, "data", "minari")
    recorded = at(provenance, "exploration") or at(provenance, "data", "exploration")
    if recorded:
        return "; then ".join(map(_describe, str(recorded).split(", then ")))
    return f"Minari dataset {dataset}" if dataset else None


def real_steps_text(provenance: Any) -> str | None:
    """Real environment steps of the data, by purpose where several are recorded; None where they are not."""
    steps = at(provenance, "real_steps")
    if isinstance(steps, dict):
        known = {purpose: value for purpose, n in steps.items() if (value := number(n)) is not None}
        if len(known) > 1:
            by_purpose = ", ".join(f"{purpose} {show(value)}" for purpose, value in known.items())
            return f"{show(sum(known.values()))} ({by_purpose})"
        steps = next(iter(known.values()), None)
    return None if number(steps) is None else show(steps)


def seeds_text(provenance: Any) -> str | None:
    """Seeds of the data and of the fit; None where none is recorded."""
    paths = (("seeds",), ("seed",), ("data", "seed"), ("fit", "seed"))
    seeds = next((seed for path in paths if (seed := at(provenance, *path)) is not None), None)
    if isinstance(seeds, list | tuple):
        return ", ".join(map(str, seeds)) or None
    return None if seeds is None else str(seeds)


def _describe(exploration: str) -> str:
    """Words for one exploration of `collection.exploration.parse_exploration`; other texts stay as they are."""
    kind, _, rest = exploration.strip().partition(":")
    if kind == "random" and not rest:
        return "uniform random actions"
    if kind == "held" and rest:
        return f"random actions held for {rest} steps on average"
    if kind == "policy" and rest:
        return f"actions of {_policy(rest)}"
    if kind == "greedy" and rest:
        return f"deterministic actions of {_policy(rest)}"
    if kind == "stuck" and ":" in rest:
        share, _, policy = rest.partition(":")
        stuck = percent(_weight(share))
        return f"actions of {_policy(policy)} with {stuck} of the observation dimensions stuck"
    if kind == "mix" and rest:
        return _mixture(rest) or exploration
    return exploration


def _mixture(parts: str) -> str | None:
    pairs = [part.partition("*") for part in parts.split("+")]
    weights = [_weight(weight) for weight, _, _ in pairs]
    total = math.fsum(weight or 0.0 for weight in weights)
    if None in weights or not total > 0:
        return None
    shares = [percent((weight or 0.0) / total) for weight in weights]
    described = [_describe(part) for _, _, part in pairs]
    return ", ".join(f"{share} {text}" for share, text in zip(shares, described, strict=True))


def _weight(text: str) -> float | None:
    try:
        return number(float(text))
    except ValueError:
        return None


def _policy(folder: str) -> str:
    if folder.startswith("{") and folder.endswith("}"):
        return _EXPLORING_POLICIES.get(folder, f'the exploration policy "{folder[1:-1]}"')
    # The folder's name is enough: its place on one machine means nothing elsewhere.
    return f'the policy "{PurePosixPath(folder).name}"'
