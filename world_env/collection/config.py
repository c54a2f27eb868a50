"""Settings of `collect`."""

from __future__ import annotations

from pathlib import Path

from world_env.errors import InvalidOptionError
from world_env.policies.config import ExplorationConfig, RandomExploration, check_exploration
from world_env.real.env_config import take_env
from world_env.real.step_ledger import PURPOSES, Purpose
from world_env.spec import EnvConfig
from world_env.struct import Struct


class CollectConfig(Struct, frozen=True):
    """Settings of `collect`: environment, folder, number of real steps and exploration."""

    real: EnvConfig
    """Real environment in which the episodes are collected."""
    out: Path
    """Folder of the episode store. An interrupted collection with the same settings is resumed there."""
    steps: int
    """Real environment steps to store in total, at least 1. The last episode is truncated there. A larger number in
    the same folder adds steps."""
    exploration: ExplorationConfig = RandomExploration()
    """Actions of the collection. More varied actions give a twin that is accurate in more states. A mixture is written
    in a file of settings."""
    seed: int = 0
    """Seed of the environment and of the exploration, at least 0. The same seed gives the same episodes."""
    purpose: Purpose = "collect"
    """Purpose under which the step ledger counts the real steps."""
    max_real_steps: int | None = None
    """Limit of the real environment steps that the folder counts, those lost in interruptions included. The collection
    stops before the step that would exceed it and keeps the complete episodes. None: no limit."""
    shard_steps: int = 1000
    """Steps after which the complete episodes are written to disk; they are also written every 30 seconds. A killed
    process loses at most these steps and one episode; small values write many small files."""

    def __post_init__(self) -> None:
        take_env(self)
        for name, least in (("steps", 1), ("shard_steps", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise InvalidOptionError(
                    f"{name} must be at least {least}, got {getattr(self, name)}"
                )
        check_exploration(self.exploration)
        if self.purpose not in PURPOSES:
            raise InvalidOptionError(
                f"unknown purpose {self.purpose!r}: expected one of {', '.join(PURPOSES)}"
            )
