"""Ledger of real environment steps, counted by purpose."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

from world_env.atomic_io import write_text
from world_env.errors import StageError
from world_env.types import JSON

Purpose = Literal["collect", "validate", "select", "evaluate", "judge"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
"""Purposes of real environment steps.

collect: training data. validate: data that only measures a twin. select: choice among policies.
evaluate: real evaluation episodes. judge: the final evaluation of a policy.
"""
_RESERVED_STEPS = 100
"""Steps that a ledger on disk reserves in advance. After a kill the file counts up to so many steps too many, never
too few."""


class StepLedger:
    """Count of real environment steps by purpose, in memory or on disk.

    path: JSON file of the counts; None: in memory. Steps are reserved in the file before they are taken: after a
        kill the file may count too many steps, never too few. `save` writes the exact counts.
    parent: a second ledger that counts the same steps, for example of a whole pipeline.

    Raises StageError if the file is not a step ledger.
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
                    f"{self._path} is not a step ledger ({error}): restore the file, or delete it to restart the "
                    "count at 0"
                ) from error
        self._reserved = dict(self._counts)

    @property
    def by_purpose(self) -> dict[str, int]:
        """Steps counted so far, purpose -> steps. Purposes without a step are absent."""
        return dict(self._counts)

    def count(self, purpose: str, n: int = 1) -> None:
        """Add `n` >= 0 real steps under a purpose. Raises ValueError for an unknown purpose or a negative `n`."""
        if purpose not in PURPOSES:
            raise ValueError(f"unknown purpose {purpose!r}: expected one of {', '.join(PURPOSES)}")
        if n < 0:
            raise ValueError(f"n must be >= 0 steps, got {n}")
        if n == 0:
            return
        self._counts[purpose] = self._counts.get(purpose, 0) + n
        if self._path is not None and self._counts[purpose] > self._reserved.get(purpose, 0):
            self._reserved[purpose] = self._counts[purpose] + _RESERVED_STEPS
            self._write(self._reserved)
        if self._parent is not None:
            self._parent.count(purpose, n)

    def total(self, exclude: Iterable[str] = ("judge",)) -> int:
        """Number of steps of all purposes that are not in `exclude`."""
        excluded = set(exclude)
        return sum(n for purpose, n in self._counts.items() if purpose not in excluded)

    def save(self) -> None:
        """Write the exact counts: steps that were reserved and not taken are released."""
        self._reserved = dict(self._counts)
        if self._path is not None:
            self._write(self._reserved)
        if self._parent is not None:
            self._parent.save()

    def to_json(self) -> JSON:
        """The counts as a strict JSON tree, purpose -> steps."""
        return dict(self._counts)

    @classmethod
    def from_json(cls, tree: Any) -> StepLedger:
        """The inverse of `to_json`, in memory. Raises StageError if `tree` is not a step ledger."""
        ledger = cls()
        try:
            ledger._counts = _checked_counts(tree)
        except ValueError as error:
            raise StageError(f"not a step ledger ({error}): got {str(tree)[:200]}") from error
        return ledger

    def _write(self, counts: dict[str, int]) -> None:
        assert self._path is not None
        write_text(self._path, json.dumps(counts))


def _checked_counts(tree: Any) -> dict[str, int]:
    if not isinstance(tree, dict) or not set(tree) <= set(PURPOSES):
        raise ValueError(f"expected an object with keys among {', '.join(PURPOSES)}")
    if not all(type(steps) is int and steps >= 0 for steps in tree.values()):
        raise ValueError("expected integer numbers of steps, at least 0")
    return dict(tree)
