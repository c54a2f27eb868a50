"""Provenance of a twin's data as text: real environment steps, exploration, seeds."""

from __future__ import annotations

import math
from pathlib import PurePosixPath

from world_env.results.formatting import percent, show
from world_env.results.provenance import Provenance

_EXPLORING_POLICIES = {
    "{policy}": "the previous round's policy",
    "{newest}": "the previous round's newest policy",
}
"""Placeholders of a refinement's exploration. Any other placeholder names a policy trained for exploration only."""


def exploration_text(provenance: Provenance) -> str | None:
    """Exploration that collected the data, in words; None where it is not recorded.

    It comes from the twin's own provenance, or from that of the data set that the twin was fitted to.
    """
    recorded = provenance.exploration or provenance.recorded("data", "exploration")
    if recorded:
        return "; then ".join(map(_describe, str(recorded).split(", then ")))
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
        weight = float(text)
    except ValueError:
        return None
    return weight if math.isfinite(weight) else None


def _policy(folder: str) -> str:
    if folder.startswith("{") and folder.endswith("}"):
        return _EXPLORING_POLICIES.get(folder, f'the exploration policy "{folder[1:-1]}"')
    # The folder's name is enough: its place on one machine means nothing elsewhere.
    return f'the policy "{PurePosixPath(folder).name}"'
