"""What a check of data found, in words that a person can act on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from world_env.types import JSON

Severity = Literal["error", "warning", "note"]
"""error: a twin of this data learns something false, or its measures are. warning: it will be worse than it need be.
note: worth knowing."""


@dataclass(frozen=True)
class LintIssue:
    """One thing found in a dataset.

    check: name of the check, such as "reward_shift".
    message: what is there, and what to do.
    where: the first place, or the column; "" for the data as a whole.
    """

    check: str
    severity: Severity
    message: str
    where: str = ""

    def to_json(self) -> JSON:
        """A strict JSON tree."""
        return asdict(self)


def worst_first(found: Iterable[LintIssue]) -> list[LintIssue]:
    """Errors, then warnings, then notes."""
    return sorted(found, key=lambda finding: get_args(Severity).index(finding.severity))
