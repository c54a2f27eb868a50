"""Settings of a collection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from world_env.errors import InvalidOptionError
from world_env.real.step_ledger import PURPOSES
from world_env.spec import EnvConfig


@dataclass(frozen=True)
class CollectConfig:
    """What to collect, how, and where to."""

    real: EnvConfig
    """The real environment."""
    out: Path
    """Folder of the episode store; an interrupted collection there goes on."""
    steps: int
    """Real steps to store; the last episode is cut there."""
    exploration: str = "random"
    """Who acts: "random", "held:20", "policy:PATH", "greedy:PATH", "stuck:0.5:PATH" (half of its sensors broken),
    "mix:0.5*random+0.5*held:20"."""
    seed: int = 0
    """Seeds both the environment and the exploration, at least 0."""
    purpose: str = "collect"
    """What the real steps are counted under."""
    shard_steps: int = 1000
    """Steps after which complete episodes are written; a killed process loses no more than these
    and one episode."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.shard_steps < 1 or self.seed < 0:
            raise InvalidOptionError(
                f"steps is {self.steps}, shard_steps {self.shard_steps}, seed {self.seed}: "
                "expected at least 1, 1 and 0"
            )
        if self.purpose not in PURPOSES:
            raise InvalidOptionError(
                f"purpose is {self.purpose!r}, expected one of {', '.join(PURPOSES)}"
            )
