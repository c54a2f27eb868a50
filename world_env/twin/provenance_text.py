"""Provenance of a twin's data as text: real environment steps, exploration, seeds."""

from __future__ import annotations

import math
from pathlib import PurePosixPath
from typing import Any

from world_env.twin.fidelity import at, number, percent, show

_ROLES = {
    "selected": "the previous round's policy",
    "newest": "the previous round's newest policy",
}
"""Policies of a refinement. Any other path is the name of an explorer, or the folder of a policy."""


def exploration_text(provenance: Any) -> str | None:
    """Exploration that collected the data, in words; None where it is not recorded.

    It comes from the twin's own provenance, or from that of the data set that the twin was fitted to.
    """
    dataset = at(provenance, "data", "minari")
    recorded = at(provenance, "exploration") or at(provenance, "data", "exploration")
    if recorded:
        parts = recorded if isinstance(recorded, list) else [recorded]
        return "; then ".join(map(_describe, parts))
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


def _describe(exploration: Any) -> str:
    """Words for the JSON tree of one `ExplorationConfig`; anything else is shown as it is."""
    kind, policy = at(exploration, "kind"), _policy(at(exploration, "path"))
    if kind == "random":
        return "uniform random actions"
    if kind == "held":
        return f"random actions held for {show(at(exploration, 'steps'))} steps on average"
    if kind == "policy":
        sampled = "deterministic actions" if at(exploration, "deterministic") else "actions"
        return f"{sampled} of {policy}"
    if kind == "stuck_sensors":
        stuck = percent(number(at(exploration, "share")))
        return f"actions of {policy} with {stuck} of the observation dimensions stuck"
    if kind == "mixture":
        return _mixture(exploration) or str(exploration)
    return str(exploration)


def _mixture(exploration: Any) -> str | None:
    parts, weights = at(exploration, "parts"), at(exploration, "weights")
    if not isinstance(parts, list) or not isinstance(weights, list) or len(parts) != len(weights):
        return None
    shares = [number(weight) or 0.0 for weight in weights]
    total = math.fsum(shares)
    if not total > 0:
        return None
    return ", ".join(
        f"{percent(share / total)} {_describe(part)}"
        for share, part in zip(shares, parts, strict=True)
    )


def _policy(path: Any) -> str:
    name = str(path)
    if name in _ROLES:
        return _ROLES[name]
    # The folder's name is enough: its place on one machine means nothing elsewhere.
    return f'the policy "{PurePosixPath(name).name}"'
