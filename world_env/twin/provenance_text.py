"""Provenance of a twin's data as text: real environment steps, exploration, seeds."""

from __future__ import annotations

import math
from pathlib import PurePosixPath

from world_env.results.formatting import percent, show
from world_env.results.provenance import Provenance
from world_env.types import JSON

_ROLES = {
    "selected": "the previous round's policy",
    "newest": "the previous round's newest policy",
}
"""Policies of a refinement. Any other path is the name of an explorer, or the folder of a policy."""


def exploration_text(provenance: Provenance) -> str | None:
    """Exploration that collected the data, in words; None where it is not recorded.

    It comes from the twin's own provenance, or from that of the data set that the twin was fitted to.
    """
    data = provenance.recorded("data", "exploration")
    recorded = provenance.exploration or ([data] if data else [])
    if recorded:
        return "; then ".join(map(_describe, recorded))
    dataset = provenance.recorded("data", "minari")
    return f"Minari dataset {dataset}" if dataset else None


def real_steps_text(provenance: Provenance) -> str | None:
    """Real environment steps of the data, by purpose where several are recorded; None where they are not."""
    steps = provenance.real_steps
    if steps is None or isinstance(steps, int):
        return None if steps is None else show(steps)
    by_purpose = ", ".join(f"{purpose} {show(value)}" for purpose, value in steps.items())
    total = show(sum(steps.values())) if steps else None
    return f"{total} ({by_purpose})" if len(steps) > 1 else total


def seeds_text(provenance: Provenance) -> str | None:
    """Seeds of the run, or else of the data or of the fit; None where none is recorded."""
    seeds = (
        provenance.seeds
        or [
            seed
            for stage in ("data", "fit")
            if (seed := provenance.recorded(stage, "seed")) is not None
        ][:1]
    )
    return ", ".join(map(str, seeds)) or None


def _describe(exploration: JSON | str) -> str:
    """Words for one `ExplorationConfig` as JSON; an unknown kind, or a user's own text, is shown as it is."""
    if not isinstance(exploration, dict):
        return str(exploration)
    kind, policy = exploration.get("kind"), _policy(str(exploration.get("path")))
    if kind == "random":
        return "uniform random actions"
    if kind == "held":
        return f"random actions held for {show(exploration['steps'])} steps on average"
    if kind == "count_based":
        return "actions toward rarely tried pairs of state and action"
    if kind == "policy":
        sampled = "deterministic actions" if exploration["deterministic"] else "actions"
        return f"{sampled} of {policy}"
    if kind == "stuck_sensors":
        stuck = percent(exploration["share"])
        return f"actions of {policy} with {stuck} of the observation dimensions stuck"
    if kind == "mixture":
        total = math.fsum(exploration["weights"])
        pairs = zip(exploration["weights"], exploration["parts"], strict=True)
        return ", ".join(f"{percent(weight / total)} {_describe(part)}" for weight, part in pairs)
    return str(exploration)


def _policy(path: str) -> str:
    name = path
    if name in _ROLES:
        return _ROLES[name]
    # The folder's name is enough: its place on one machine means nothing elsewhere.
    return f'the policy "{PurePosixPath(name).name}"'
