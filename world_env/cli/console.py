"""What the commands share: the output folder, tables, and the real environment of a twin."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from world_env.spec import EnvConfig
from world_env.twin.fidelity import show
from world_env.twin.fidelity_tables import policy_label
from world_env.types import JSON

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

    if env_id in (None, twin.provenance.get("real", {}).get("env_id")):
        return real_environment(twin)
    return EnvConfig(str(env_id))


def show_comparison(comparison: JSON) -> None:
    """Print two lines per policy, which fit into 80 columns; a dash where a number is unknown."""
    console.print(f"means over {comparison['episodes']} episodes [95 % interval]")
    for row in comparison["rows"]:
        real, learned = (
            f"{row[f'{side}_mean']:.1f} [{row[f'{side}_ci95'][0]:.1f}, {row[f'{side}_ci95'][1]:.1f}]"
            for side in ("real", "learned")
        )
        lines = (
            f"{policy_label(row['policy'])} ({show(row['real_steps'])} real steps)",
            f"  real return {real}, learned return {learned}, return gap {row['return_gap']:+.1f}",
        )
        console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
