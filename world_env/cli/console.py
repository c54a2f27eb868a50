"""Parts of several commands: the output folder, tables, and the real environment of a twin."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from world_env.spec import EnvConfig

if TYPE_CHECKING:
    from world_env.twin.twin import Twin

console = Console()


def runs_folder() -> Path:
    """The default output folder: $WORLD_ENV_RUNS, or `runs`."""
    return Path(os.environ.get("WORLD_ENV_RUNS", "runs"))


def real_of_twin(twin: Twin, real: EnvConfig | None) -> EnvConfig:
    """The real environment of a command: the given one, or that of the twin with its arguments and wrappers.

    An id alone means the twin's own environment, where it is the id of that one.
    """
    from world_env.policy_evaluation.compare import real_environment

    stored = twin.provenance.real
    if real is None:
        return real_environment(twin)
    if stored is not None and real == EnvConfig(stored.env_id, horizon=real.horizon):
        return stored if real.horizon is None else stored.replace(horizon=real.horizon)
    return real
