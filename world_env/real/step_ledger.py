"""The count of real environment steps by purpose."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from world_env.atomic_io import write_text
from world_env.errors import StageError
from world_env.types import JSON

PURPOSES = ("collect", "validate", "select", "spot_check", "judge")
"""What a real step may be spent on."""
_RESERVED_STEPS = 100
"""Steps that a ledger on disk books in advance: what a killed process may overcount, never "
"under."""


class StepLedger:
    """Counts real steps by purpose; on disk it never forgets one, even after kill -9.

    path: JSON file to keep the counts in; None: in memory. The file is never below the truth:
        steps are booked in blocks before they are taken, and `save` settles the account.
    parent: a wider ledger that counts the same steps too.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, parent: StepLedger | None = None
    ) -> None:
        self._path = None if path is None else Path(path)
        self._parent = parent
        self._counts: dict[str, int] = {}
        if self._path is not None and self._path.exists():
            try:
                self._counts = _checked_counts(json.loads(self._path.read_text(encoding="utf-8")))
            except (OSError, ValueError) as error:
                raise StageError(
                    f"{self._path} is no step ledger ({error}): restore it, or delete it if the "
                    "steps counted in it may be forgotten"
                ) from error
        self._booked = dict(self._counts)

    @property
    def by_purpose(self) -> dict[str, int]:
        """Steps counted so far, purpose -> steps; purposes without a step are absent."""
        return dict(self._counts)

    def count(self, purpose: str, n: int = 1) -> None:
        """Add `n` >= 0 real steps under a purpose."""
        if purpose not in PURPOSES or n < 0:
            raise ValueError(
                f"cannot count {n} steps for {purpose!r}: expected one of {', '.join(PURPOSES)} "
                "and at least 0 steps"
            )
        if n == 0:
            return
        self._counts[purpose] = self._counts.get(purpose, 0) + n
        if self._path is not None and self._counts[purpose] > self._booked.get(purpose, 0):
            self._booked[purpose] = self._counts[purpose] + _RESERVED_STEPS
            self._write(self._booked)
        if self._parent is not None:
            self._parent.count(purpose, n)

    def total(self, exclude: Iterable[str] = ("judge",)) -> int:
        """All steps but those of the excluded purposes."""
        left_out = set(exclude)
        return sum(n for purpose, n in self._counts.items() if purpose not in left_out)

    def save(self) -> None:
        """Settle: steps that were booked but not taken are given back."""
        self._booked = dict(self._counts)
        if self._path is not None:
            self._write(self._booked)
        if self._parent is not None:
            self._parent.save()

    def to_json(self) -> JSON:
        """A strict JSON tree, purpose -> steps."""
        return dict(self._counts)

    @classmethod
    def from_json(cls, tree: Any) -> StepLedger:
        """The inverse of `to_json`, in memory. Raises StageError on anything else."""
        ledger = cls()
        try:
            ledger._counts = _checked_counts(tree)
        except ValueError as error:
            raise StageError(
                f"this describes no step ledger: {str(tree)[:200]} ({error})"
            ) from error
        return ledger

    def _write(self, counts: dict[str, int]) -> None:
        assert self._path is not None
        write_text(self._path, json.dumps(counts))


def _checked_counts(tree: Any) -> dict[str, int]:
    if not isinstance(tree, dict) or not set(tree) <= set(PURPOSES):
        raise ValueError(f"expected an object with keys among {', '.join(PURPOSES)}")
    if not all(type(steps) is int and steps >= 0 for steps in tree.values()):
        raise ValueError("expected whole numbers of steps, at least 0")
    return dict(tree)
