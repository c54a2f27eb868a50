"""What the commands share: the output folder, progress, tables, and the real environment of a twin."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from tqdm import tqdm

from world_env.spec import EnvConfig
from world_env.twin.fidelity import show
from world_env.twin.fidelity_tables import policy_label
from world_env.types import JSON

if TYPE_CHECKING:
    from world_env.twin.twin import Twin

console = Console()


def runs_folder() -> Path:
    """The default output folder: $WORLD_ENV_RUNS, or `runs`."""
    return Path(os.environ.get("WORLD_ENV_RUNS", "runs"))


class Bars:
    """Progress bars, one a stage."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._stage = ""

    def __call__(self, stage: str, done: int, wanted: int, logs: JSON) -> None:
        """Advance the bar of a stage, or start it."""
        if self._bar is None or stage != self._stage or done < self._bar.n:
            self.close()
            # From `done` on: steps before the first report took time that the bar did not measure.
            self._bar = tqdm(total=wanted, initial=done, desc=stage, unit="", mininterval=0.5)
            self._stage = stage
        self._bar.update(done - self._bar.n)
        numbers = {name: f"{value:.4g}" for name, value in logs.items() if isinstance(value, float)}
        shown = {name: numbers[name] for name in ("open_loop", "episode_return") if name in numbers}
        self._bar.set_postfix(shown)
        if done >= wanted:
            self.close()

    def close(self) -> None:
        """Finish the current bar, if there is one."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None


def real_of_twin(twin: Twin, real: EnvConfig | None) -> EnvConfig:
    """The real environment of a command: the given one, or that of the twin with its arguments and wrappers.

    An id alone means the twin's own environment, where it is the id of that one.
    """
    from world_env.policy_evaluation.compare import real_environment

    stored = twin.provenance.get("real", {}).get("env_id")
    if real is None or (stored is not None and real == EnvConfig(stored)):
        return real_environment(twin)
    return real


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
