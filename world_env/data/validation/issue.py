"""Words and order of the issues that `lint` reports."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from world_env.results.lint_issue import LintIssue as LintIssue, Severity as Severity


def number_of(count: int, noun: str) -> str:
    """A number with its noun: "1 step", "1,200 steps"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def worst_first(issues: Iterable[LintIssue]) -> list[LintIssue]:
    """Sort issues by severity: errors, then warnings, then notes."""
    return sorted(issues, key=lambda issue: get_args(Severity).index(issue.severity))
