"""Ledger of real environment steps, counted by purpose."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout

from world_env.atomic_io import write_text
from world_env.errors import InvalidOptionError, RealStepLimitError, StageError
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
_LOCK_SECONDS = 60.0
"""Longest wait for a file that other processes are updating. One update takes about a millisecond."""
_IN_MEMORY = (
    "this step ledger counts in memory only: to count in other processes, give StepLedger a path"
)


class StepLedger:
    """Count of real environment steps by purpose, in memory or on disk.

    path: JSON file of the counts; None: in memory. Several processes and ledgers may count into one file at the same
        time. Each reserves steps in the file before they are taken: after a kill the file counts up to 100 steps too
        many per ledger, never too few. `save` writes the exact counts. A pickled ledger counts into the same file.
    parent: a second ledger that counts the same steps, for example of a whole pipeline. Its limit holds too.
    max_steps: limit of the steps of all purposes together, "judge" included, and of all processes that count into the
        file. A step that would exceed it raises RealStepLimitError before it is taken. One process stops at exactly
        this number; several processes never exceed it. None: no limit.

    Raises StageError if the file is not a step ledger, and for a count in memory in a process that did not make it;
    InvalidOptionError for a negative limit.
    """

    _reserved: dict[str, int]
    """Steps that the file counts already and that this ledger has not taken yet, by purpose."""

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        parent: StepLedger | None = None,
        max_steps: int | None = None,
    ) -> None:
        if max_steps is not None and max_steps < 0:
            raise InvalidOptionError(f"max_steps must be >= 0, got {max_steps}")
        self._path = None if path is None else Path(path)
        self._parent = parent
        self._max_steps = max_steps
        self._in_memory: dict[str, int] = {}
        self._enter_process()
        if self._path is not None:
            self._read()

    def __reduce__(self) -> tuple[Any, ...]:
        # The steps reserved in the file belong to one ledger: a copy starts without any.
        if self._path is None:
            raise TypeError(_IN_MEMORY)
        return partial(StepLedger, self._path, parent=self._parent, max_steps=self._max_steps), ()

    @property
    def by_purpose(self) -> dict[str, int]:
        """Steps counted so far, by this and all other ledgers of the file. Purposes without a step are absent."""
        counts = self._in_memory if self._path is None else self._read()
        exact = {purpose: n - self._reserved.get(purpose, 0) for purpose, n in counts.items()}
        return {purpose: n for purpose, n in exact.items() if n > 0}

    @property
    def steps_left(self) -> int | None:
        """Steps that may still be taken under the limits of this ledger and its parents; None: no limit."""
        own = None
        if self._max_steps is not None:
            own = max(0, self._max_steps - sum(self.by_purpose.values()))
        above = None if self._parent is None else self._parent.steps_left
        return min((n for n in (own, above) if n is not None), default=None)

    def count(self, purpose: str, n: int = 1) -> None:
        """Add `n` >= 0 real steps under a purpose.

        Raises ValueError for an unknown purpose or a negative `n`, RealStepLimitError where `n` steps would exceed a
        limit. Then none of them is counted.
        """
        if purpose not in PURPOSES:
            raise ValueError(f"unknown purpose {purpose!r}: expected one of {', '.join(PURPOSES)}")
        if n < 0:
            raise ValueError(f"n must be >= 0 steps, got {n}")
        if n == 0:
            return
        if self._pid != os.getpid():
            if self._path is None and self._parent is None:
                raise StageError(_IN_MEMORY)
            self._enter_process()
        if self._parent is not None:
            self._parent.count(purpose, n)
        try:
            self._count_here(purpose, n)
        except StageError:
            if self._parent is not None:
                self._parent.release(purpose, n)
            raise

    def _count_here(self, purpose: str, n: int) -> None:
        """Count in this ledger alone."""
        if self._path is None:
            if self._max_steps is not None and sum(self._in_memory.values()) + n > self._max_steps:
                raise self._exceeded(self._in_memory)
            self._in_memory[purpose] = self._in_memory.get(purpose, 0) + n
            return
        left = self._reserved.get(purpose, 0) - n
        if left < 0:
            self._reserve(purpose, n)
            left = self._reserved[purpose] - n
        self._reserved[purpose] = left

    def limited(self, max_steps: int | None) -> StepLedger:
        """Return a ledger that counts into this one up to a limit, steps counted so far included; None: this ledger."""
        if max_steps is None:
            return self
        ledger = StepLedger(parent=self, max_steps=max_steps)
        ledger._in_memory = self.by_purpose
        return ledger

    def take(self, purpose: str, most: int) -> int:
        """Count up to `most` steps, as many as the limits allow, and return their number, at least 1.

        Raises RealStepLimitError where no step is left.
        """
        while True:
            left = self.steps_left
            n = most if left is None else max(1, min(most, left))
            try:
                self.count(purpose, n)
                return n
            except RealStepLimitError:
                # Another process may have taken steps since.
                if n == 1:
                    raise

    def release(self, purpose: str, n: int) -> None:
        """Take back `n` >= 0 steps that this ledger counted and that were not taken. Raises ValueError for n < 0."""
        if n < 0:
            raise ValueError(f"n must be >= 0 steps, got {n}")
        if self._path is None:
            self._in_memory[purpose] = self._in_memory.get(purpose, 0) - n
        else:
            self._reserved[purpose] = self._reserved.get(purpose, 0) + n
        if self._parent is not None:
            self._parent.release(purpose, n)

    def total(self, exclude: Iterable[str] = ("judge",)) -> int:
        """Number of steps of all purposes that are not in `exclude`."""
        excluded = set(exclude)
        return sum(n for purpose, n in self.by_purpose.items() if purpose not in excluded)

    def save(self) -> None:
        """Write the exact counts: steps that this ledger reserved and did not take are released."""
        if self._pid != os.getpid():
            self._enter_process()
        if self._path is not None:
            self._change({purpose: -n for purpose, n in self._reserved.items()})
            self._reserved = {}
        if self._parent is not None:
            self._parent.save()

    def to_json(self) -> JSON:
        """The counts as a strict JSON tree, purpose -> steps."""
        return dict(self.by_purpose)

    @classmethod
    def from_json(cls, tree: Any) -> StepLedger:
        """The inverse of `to_json`, in memory. Raises StageError if `tree` is not a step ledger."""
        ledger = cls()
        try:
            ledger._in_memory = _checked_counts(tree)
        except ValueError as error:
            raise StageError(f"not a step ledger ({error}): got {str(tree)[:200]}") from error
        return ledger

    def _enter_process(self) -> None:
        """Start without reserved steps: after a fork they belong to the first process."""
        self._pid = os.getpid()
        self._reserved = {}
        if self._path is not None:
            lock = self._path.with_name(f".{self._path.name}.lock")
            self._lock = FileLock(lock, timeout=_LOCK_SECONDS, poll_interval=0.001)

    def _read(self) -> dict[str, int]:
        """Read the counts of the file, which include the reserved steps of all ledgers."""
        assert self._path is not None
        try:
            return _checked_counts(json.loads(self._path.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError) as error:
            raise StageError(
                f"{self._path} is not a step ledger ({error}): restore the file, or delete it to restart the "
                "count at 0"
            ) from error

    def _change(self, changes: dict[str, int]) -> None:
        """Add to the counts of the file, which no other ledger changes meanwhile."""
        with self._updated() as counts:
            for purpose, n in changes.items():
                counts[purpose] = max(0, counts.get(purpose, 0) + n)

    def _reserve(self, purpose: str, n: int) -> None:
        """Reserve at least `n` steps in the file. Raises RealStepLimitError where that exceeds the limit."""
        with self._updated() as counts:
            reserved = self._reserved
            if self._max_steps is not None:
                # Steps that this ledger reserved under other purposes and did not take are not spent.
                for other, unused in self._reserved.items():
                    counts[other] = max(0, counts.get(other, 0) - unused)
                reserved = {}
            more = n + _RESERVED_STEPS - reserved.get(purpose, 0)
            if self._max_steps is not None:
                left = self._max_steps - sum(counts.values()) - n
                if left < 0:
                    raise self._exceeded(counts)
                # Near the limit each reservation takes half of what is left: other processes need the rest.
                more = n + min(_RESERVED_STEPS, left // 2)
            counts[purpose] = counts.get(purpose, 0) + more
        self._reserved = reserved | {purpose: reserved.get(purpose, 0) + more}

    @contextmanager
    def _updated(self) -> Iterator[dict[str, int]]:
        """The counts of the file, written at the end of the block unless it raises."""
        assert self._path is not None
        try:
            with self._lock:
                counts = self._read()
                yield counts
                write_text(self._path, json.dumps(counts))
        except Timeout as error:
            raise StageError(
                f"cannot count real steps in {self._path}: another process has locked it for {_LOCK_SECONDS:.0f} s. "
                "End that process, then run again."
            ) from error
        except OSError as error:
            raise StageError(f"cannot count real steps in {self._path}: {error}") from error

    def _exceeded(self, counts: dict[str, int]) -> RealStepLimitError:
        taken = ", ".join(f"{purpose} {n:,}" for purpose, n in counts.items() if n) or "none"
        where = "" if self._path is None else f" counted in {self._path}"
        return RealStepLimitError(
            f"the limit of {self._max_steps:,} real steps is reached (taken{where}: {taken}): the next step was not "
            "taken, and what was collected is kept. Run again with a larger limit (--max-real-steps, in Python "
            "max_real_steps or StepLedger(max_steps=...)) to resume."
        )


def _checked_counts(tree: Any) -> dict[str, int]:
    if not isinstance(tree, dict) or not set(tree) <= set(PURPOSES):
        raise ValueError(f"expected an object with keys among {', '.join(PURPOSES)}")
    if not all(type(steps) is int and steps >= 0 for steps in tree.values()):
        raise ValueError("expected integer numbers of steps, at least 0")
    return dict(tree)
