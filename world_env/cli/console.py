"""What the commands share: where they write, how they show progress, and which real environment is meant."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rich.console import Console
from tqdm import tqdm

from world_env.errors import InvalidOptionError
from world_env.spec import EnvConfig
from world_env.twin.twin import Twin
from world_env.types import JSON

console = Console()


def runs_folder() -> Path:
    """Where stages write without being told: $WORLD_ENV_RUNS, or `runs`."""
    return Path(os.environ.get("WORLD_ENV_RUNS", "runs"))


class Bars:
    """One progress bar a stage."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._stage = ""

    def __call__(self, stage: str, done: int, wanted: int, logs: JSON) -> None:
        """Advance the bar of a stage, or begin one."""
        if self._bar is None or stage != self._stage or done < self._bar.n:
            self.close()
            # From `done` on, because what was done before the first report took time that no bar saw.
            self._bar = tqdm(total=wanted, initial=done, desc=stage, unit="", mininterval=0.5)
            self._stage = stage
        self._bar.update(done - self._bar.n)
        numbers = {name: f"{value:.4g}" for name, value in logs.items() if isinstance(value, float)}
        shown = {name: numbers[name] for name in ("open_loop", "episode_return") if name in numbers}
        self._bar.set_postfix(shown)
        if done >= wanted:
            self.close()

    def close(self) -> None:
        """Finish the bar that is shown, if there is one."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None


def real_of_twin(twin: Twin, env_id: str | None) -> EnvConfig:
    """The real environment that a twin was made from, with its arguments and wrappers; or a plain one by its id."""
    stored = twin.provenance.get("real")
    if stored is not None and env_id in (None, stored.get("env_id")):
        return EnvConfig.from_json(stored)
    if env_id is None:
        raise InvalidOptionError(
            "this twin does not say which real environment it was made from: give --real ENV_ID"
        )
    return EnvConfig(env_id)
