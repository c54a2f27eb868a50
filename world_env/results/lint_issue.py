"""Issue that `lint` reports about a data set; a twin stores those of its data."""

from __future__ import annotations

from typing import Literal

from world_env.struct import Struct

Severity = Literal["error", "warning", "note"]
"""error: a twin of this data learns something wrong, or its measured fidelity is wrong. warning: the twin will be less
accurate than it could be. note: information."""


class LintIssue(Struct, frozen=True, kw_only=False):
    """One issue of a data set. Issues of the same kind in several columns or episodes are one `LintIssue`."""

    check: str
    """Name of the check, such as "reward_shift"."""
    severity: Severity
    """"error", "warning" or "note"."""
    message: str
    """What is wrong, how often, and what to do."""
    where: str = ""
    """First column or first place, such as "episode 3, step 49"; "" for the whole data set."""

    def __str__(self) -> str:
        where = f" ({self.where})" if self.where else ""
        return f"{self.severity}: {self.check}{where}: {self.message}"
