"""The commands of `world-env` that ask data instead of a real environment."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Annotated

import tyro
from rich.markup import escape
from rich.table import Table

from training.episodes import Episode
from training.exchange import open_recordings
from training.findings import Finding, worst_first
from training.lint import lint, lint_split
from training.terminal import console
from world_env.errors import InvalidOptionError
from world_env.twin import Twin


def lint_stage(
    dataset: str,
    /,
    held_out: str | None = None,
    twin: str | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Look for what is wrong with real episodes before a twin learns them; exit status 1 where an error is.

    Args:
        dataset: Folder of an episode store, or minari:ID.
        held_out: Another dataset, which should share nothing with this one.
        twin: Bundled twin or folder: what it was fitted to should share nothing with the rest of the dataset.
        as_json: Print JSON instead of a table.
    """
    if held_out is not None and twin is not None:
        raise InvalidOptionError("give one split at most: --held-out DATASET or --twin TWIN")
    spec, episodes, _ = open_recordings(dataset)
    found = lint(episodes, spec)
    if held_out is not None:
        found += lint_split(episodes, open_recordings(held_out)[1], spec)
    if twin is not None:
        found += lint_split(*_sides(Twin.load(twin), episodes), spec)
    found = worst_first(found)
    if as_json:
        print(json.dumps([finding.to_json() for finding in found], indent=1))
    else:
        steps = sum(map(len, episodes))
        show_findings(found, f"{dataset}: {len(episodes):,} episodes, {steps:,} steps")
    return int(any(finding.severity == "error" for finding in found))


def show_findings(found: Sequence[Finding], title: str) -> None:
    """The findings as a table, or the word that there is none."""
    if not found:
        console.print(f"{title}: nothing found", soft_wrap=True)
        return
    table = Table("severity", "check", "where", "what", title=title, show_lines=True)
    for finding in found:
        color = {"error": "red", "warning": "yellow", "note": "dim"}[finding.severity]
        severity = f"[{color}]{finding.severity}[/{color}]"
        table.add_row(severity, finding.check, *map(escape, (finding.where, finding.message)))
    console.print(table)


def _sides(twin: Twin, episodes: Sequence[Episode]) -> tuple[list[Episode], list[Episode]]:
    """(what the twin was fitted to, the rest)."""
    known = twin.provenance.get("trained_on")
    if known is None:
        raise InvalidOptionError(
            "this twin does not say which episodes it was fitted to: fit it again, or give --held-out DATASET"
        )
    sides: tuple[list[Episode], list[Episode]] = ([], [])
    for episode in episodes:
        sides[episode.digest() not in known].append(episode)
    return sides


DATA_STAGES: dict[str, Callable[..., int | None]] = {"lint": lint_stage}
