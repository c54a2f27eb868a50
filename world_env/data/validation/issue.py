"""Issues that `lint` reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from world_env.types import JSON

Severity = Literal["error", "warning", "note"]
"""error: a twin of this data learns something wrong, or its measured fidelity is wrong. warning: the twin will be less
accurate than it could be. note: information."""


@dataclass(frozen=True)
class LintIssue:
    """One issue of a data set. Issues of the same kind in several columns or episodes are one `LintIssue`.

    check: name of the check, such as "reward_shift".
    severity: "error", "warning" or "note".
    message: what is wrong, how often, and what to do.
    where: first column or first place, such as "episode 3, step 49"; "" for the whole data set.
    """

    check: str
    severity: Severity
    message: str
    where: str = ""

    def to_json(self) -> JSON:
        """The issue as a strict JSON tree."""
        return asdict(self)


def number_of(count: int, noun: str) -> str:
    """A number with its noun: "1 step", "1,200 steps"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def worst_first(issues: Iterable[LintIssue]) -> list[LintIssue]:
    """Sort issues by severity: errors, then warnings, then notes."""
    return sorted(issues, key=lambda issue: get_args(Severity).index(issue.severity))
