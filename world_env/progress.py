"""Progress of the stages: bars on a terminal and in a notebook, plain lines in files and pipes."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from world_env.errors import MissingExtraError
from world_env.types import JSON

_SHOWN = ("open_loop", "episode_return")
"""Logs that are shown, where a stage reports them."""
_LINE_SECONDS, _MIN_LINE_SECONDS = 30.0, 1.0
"""Longest and shortest time between two plain lines of a stage."""
_LINE_SHARE = 0.1
"""Progress after which a plain line is written."""


class ProgressBars:
    """Progress of one stage after another, on stderr: a bar on a terminal or in a notebook, else plain lines.

    An instance is the `report` of `build`, `refine` and `pool`; `stage` makes the `progress` of the other stages:
    `fit(data, out, progress=ProgressBars().stage("fit"))`.

    Plain lines are written after every 10 % and every 30 seconds, and when the stage is done.
    """

    def __init__(self) -> None:
        self._stage = ""
        self._shown: _Bar | _Lines | None = None

    def __call__(self, stage: str, done: int, total: int, logs: JSON | None = None) -> None:
        """Show that `done` of `total` units of a stage are done."""
        if self._shown is None or stage != self._stage or done < self._shown.done:
            self.close()
            self._stage = stage
            self._shown = (_Bar if _is_interactive() else _Lines)(stage, done, total)
        numbers = {name: (logs or {}).get(name) for name in _SHOWN}
        self._shown.show(
            done, {name: f"{n:.4g}" for name, n in numbers.items() if isinstance(n, float)}
        )
        if done >= total:
            self.close()

    def stage(self, name: str) -> Callable[..., None]:
        """Return a callback (done, total, logs) for one stage."""

        def progress(done: int, total: int, logs: JSON | None = None) -> None:
            self(name, done, total, logs)

        return progress

    def close(self) -> None:
        """Finish the current stage, if there is one."""
        if self._shown is not None:
            self._shown.close()
        self._shown = None


class _Bar:
    """A bar of tqdm: text on a terminal, a widget in a notebook that has ipywidgets."""

    def __init__(self, stage: str, done: int, total: int) -> None:
        try:
            with warnings.catch_warnings():
                # It warns that it is experimental, and where a notebook has no ipywidgets.
                warnings.simplefilter("ignore")
                from tqdm.auto import tqdm
        except ImportError as error:
            raise MissingExtraError(
                'tqdm is not installed: pip install "world-env[train]"'
            ) from error
        # From `done` on: steps before the first report took time that the bar did not measure.
        self._bar: Any = tqdm(total=total, initial=done, desc=stage, unit="", mininterval=0.5)

    @property
    def done(self) -> int:
        return int(self._bar.n)

    def show(self, done: int, numbers: dict[str, str]) -> None:
        self._bar.update(done - self._bar.n)
        self._bar.set_postfix(numbers)

    def close(self) -> None:
        self._bar.close()


class _Lines:
    def __init__(self, stage: str, done: int, total: int) -> None:
        self.done, self._stage, self._total = done, stage, total
        self._began = self._written = time.monotonic()
        self._share = done / max(1, total)

    def show(self, done: int, numbers: dict[str, str]) -> None:
        self.done = done
        now, share = time.monotonic(), done / max(1, self._total)
        since = now - self._written
        advanced = share >= self._share + _LINE_SHARE and since >= _MIN_LINE_SECONDS
        if not (advanced or since >= _LINE_SECONDS or done >= self._total):
            return
        self._written, self._share = now, share
        words = [f"{self._stage}: {done:,}/{self._total:,} ({share:.0%})"]
        words += [f"{name} {number}" for name, number in numbers.items()]
        words.append(f"{now - self._began:.0f} s")
        print(", ".join(words), file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


def _is_interactive() -> bool:
    """Whether stderr is a terminal or the output of a notebook's cell: both can redraw a line."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return sys.stderr.isatty() or (shell is not None and "IPKernelApp" in shell.config)
