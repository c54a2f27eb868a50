"""What the commands share: the output folder, tables, and the real environment of a twin."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from world_env.spec import EnvConfig

if TYPE_CHECKING:
    from world_env.twin.twin import Twin

console = Console()
NO_KWARGS: dict[str, Any] = {}
"""Default of options that are JSON objects."""


def runs_folder() -> Path:
    """The default output folder: $WORLD_ENV_RUNS, or `runs`."""
    return Path(os.environ.get("WORLD_ENV_RUNS", "runs"))


def real_of_twin(twin: Twin, env_id: str | None) -> EnvConfig:
    """The real environment that a twin was fitted to, with its arguments and wrappers, or a plain one by its id."""
    from world_env.policy_evaluation.compare import real_environment

    if env_id is None or (twin.provenance.real and env_id == twin.provenance.real.env_id):
        return real_environment(twin)
    return EnvConfig(env_id)
