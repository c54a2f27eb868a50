"""The commands that need data only: lint, and the comparison with logs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from world_env.atomic_io import write_json
from world_env.cli.console import console
from world_env.cli.main import set_threads
from world_env.errors import InvalidOptionError
from world_env.results.formatting import DASH
from world_env.results.provenance import facts
from world_env.spec import check_same_spaces
from world_env.struct import Struct

if TYPE_CHECKING:
    from world_env.data.episode import Episode
    from world_env.data.validation.issue import LintIssue
    from world_env.results.log_comparison import LogComparison
    from world_env.twin.twin import Twin


class LintCommand(Struct, frozen=True):
    """Settings of `lint`."""

    dataset: str
    """Dataset: folder of an episode store, or minari:ID."""
    test_data: str | None = None
    """Another dataset that must share no episode with this one, such as a test split. None: no such check."""
    twin: str | None = None
    """Name of a bundled twin, or a folder: the episodes it was fitted to must share nothing with the rest of the
    dataset. None: no such check."""
    json: bool = False
    """Print JSON instead of a table."""


def lint_command(config: LintCommand) -> int:
    """Check episodes before a twin is fitted to them. Exit status 1 if any error is found."""
    from world_env.data.sources import open_recordings
    from world_env.data.validation.issue import worst_first
    from world_env.data.validation.lint import lint, lint_split
    from world_env.twin.twin import Twin

    set_threads()
    if config.test_data is not None and config.twin is not None:
        raise InvalidOptionError("pass at most one of --test-data DATASET and --twin TWIN")
    spec, episodes, _ = open_recordings(config.dataset)
    found = lint(episodes, spec)
    if config.test_data is not None:
        found += lint_split(episodes, open_recordings(config.test_data)[1], spec)
    if config.twin is not None:
        found += lint_split(*_sides(Twin.load(config.twin), episodes), spec)
    found = worst_first(found)
    if config.json:
        print(json.dumps([issue.to_json() for issue in found], indent=1))
    else:
        steps = sum(map(len, episodes))
        show_issues(found, f"{config.dataset}: {len(episodes):,} episodes, {steps:,} steps")
    return int(any(issue.severity == "error" for issue in found))


def show_issues(found: Sequence[LintIssue], title: str) -> None:
    """Print the issues as a table."""
    if not found:
        console.print(f"{title}: no issues found", soft_wrap=True)
        return
    table = Table("severity", "check", "where", "problem", title=title, show_lines=True)
    for issue in found:
        color = {"error": "red", "warning": "yellow", "note": "dim"}[issue.severity]
        severity = f"[{color}]{issue.severity}[/{color}]"
        table.add_row(severity, issue.check, *map(escape, (issue.where, issue.message)))
    console.print(table)


def compare_with_logs(twin: Twin, dataset: str, path: Path, *, seed: int = 0) -> None:
    """Replay a dataset in a twin, write the result to `path` and print it."""
    from world_env.data.sources import open_dataset
    from world_env.model_evaluation.log_replay import replay_logs

    spec, episodes, _ = open_dataset(dataset)
    advice = "pass logs of the environment that the twin was fitted to"
    check_same_spaces(spec, twin.spec, called="the {} of the logs", advice=advice)
    result = replay_logs(twin, episodes, seed=seed)
    name = dataset if dataset.startswith("minari:") else Path(dataset).name
    write_json(path, result.replace(dataset=name, provenance=facts()).to_json())
    show_logs(result)
    console.print(f"comparison with logs: {path}", soft_wrap=True)


def show_logs(result: LogComparison) -> None:
    """Print a comparison with logs; a dash where a number is unknown."""
    error, ends, coverage = result.return_error, result.termination, result.coverage
    low, high = coverage.inside_ci95
    table = Table(
        "",
        "learned against logged",
        title=f"{result.episodes} episodes that the twin was not fitted to",
    )
    rows = {
        "return error, mean": _with_share(error.mean, error.mean_relative, "+"),
        "return error, mean absolute": _with_share(
            error.mean_absolute, error.mean_absolute_relative
        ),
        "ends: logged": str(ends.logged_ends),
        "ends: on time / early / missed": " / ".join(
            _percent(share) for share in (ends.on_time, ends.early, ends.missed)
        ),
        "ends: median steps too early": _or_dash(ends.median_absolute_difference, "g"),
        "false ends in continuing episodes": _percent(ends.false_ends),
        f"logged return inside the {coverage.level:.0%} interval": (
            f"{coverage.inside:.0%} [{low:.0%}, {high:.0%}]"
        ),
        "interval's median width": _with_share(
            coverage.median_width, coverage.median_width_relative
        ),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    for warning in result.warnings:
        console.print(f"[yellow]warning[/yellow]: {warning}")
    console.print(f"This certifies {result.certifies}.")
    console.print(f"Note: {result.open_loop}.")


def _or_dash(value: float | None, form: str) -> str:
    return DASH if value is None else f"{value:{form}}"


def _percent(share: float | None) -> str:
    return _or_dash(share, ".1%")


def _with_share(value: float, share: float | None, sign: str = "") -> str:
    return f"{value:{sign}.4g} ({_percent(share)} of the logged range)"


def _sides(twin: Twin, episodes: Sequence[Episode]) -> tuple[list[Episode], list[Episode]]:
    """(episodes that the twin was fitted to, the other episodes)."""
    known = twin.provenance.trained_on
    if known is None:
        raise InvalidOptionError(
            "this twin does not store which episodes it was fitted to: fit it again, or pass --test-data DATASET"
        )
    sides: tuple[list[Episode], list[Episode]] = ([], [])
    for episode in episodes:
        sides[episode.digest() not in known].append(episode)
    return sides
