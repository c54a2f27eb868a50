"""Settings of policy pools and of the exploitation alarm."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from world_env.errors import InvalidOptionError
from world_env.spec import EnvConfig
from world_env.types import JSON


@dataclass(frozen=True)
class PoolConfig:
    """A pool of policies for one real environment."""

    real: EnvConfig
    out: Path
    """Folder of the pool; running again goes on where it stopped."""
    policies: int = 24
    """Policies wanted, at least 20; fewer where the candidates do not spread."""
    on_policy_steps: int = 200_000
    """Real steps of each on-policy run."""
    off_policy_steps: int = 20_000
    """Real steps of each off-policy run."""
    episodes: int = 100
    """Real episodes that evaluate each policy."""
    scripted: str | None = None
    """A policy written by hand, as "module:function": (B, ...) observations in, (B, ...) actions out."""
    options: JSON = field(default_factory=dict)
    """Arguments of PPO, as in LearnConfig."""
    off_policy_options: JSON = field(default_factory=dict)
    """Arguments of DQN, as in LearnConfig."""
    through: str | None = None
    """Bundled twin or folder through whose model all policies see, where they learn on latents: one that the pool will
    never judge."""
    seed: int = 0
    """Seeds every run."""

    def __post_init__(self) -> None:
        if self.policies < MIN_POLICIES or self.episodes < 2:
            raise InvalidOptionError(
                f"{self.policies} policies over {self.episodes} episodes: expected at least {MIN_POLICIES} "
                "over 2"
            )


@dataclass(frozen=True)
class AlarmConfig:
    """When an alarm looks and what it takes for a sign; the limits' origin: benchmarks/diagnostics/alarm.py."""

    every: int = 50_000
    """Learned steps from one check to the next; the policy at the end is checked too."""
    rows: int = 32
    """Episodes a check, in the twin and again in the judge."""
    stop: bool = False
    """Whether the first finding ends the training."""
    reward_share: float = 0.02
    """"reward": share of steps paid outside the data's range."""
    reward_margin: float = 0.02
    """"reward": how far outside, in widths of that range (in the largest reward where all are equal)."""
    uncertain_share: float = 0.5
    """"uncertainty": share of steps past the twin's threshold."""
    still: float = 0.25
    """"frozen": largest usual change of a step, as a share of the judge's."""
    gap: float = 0.1
    """"judge" and "spot_check": learned mean less the other, as a share of the larger of their sizes."""
    spot_check_steps: int = 0
    """Real steps that all spot checks together may cost; 0: none is made."""
    spot_check_every: int = 100_000
    """Learned steps from one spot check to the next; the policy at the end is checked too."""
    spot_check_episodes: int = 5
    """Real episodes of a spot check; fewer where the budget might not last."""
    seed: int = 0
    """Of the learned episodes and of the real resets."""

    def __post_init__(self) -> None:
        if (
            min(self.every, self.spot_check_every) < 1
            or min(self.rows, self.spot_check_episodes) < 2
        ):
            raise InvalidOptionError(
                f"every is {self.every}, spot_check_every {self.spot_check_every}, rows {self.rows} and "
                f"spot_check_episodes {self.spot_check_episodes}: expected at least 1 step and 2 episodes"
            )
        limits = (self.reward_share, self.reward_margin, self.uncertain_share, self.still, self.gap)
        if not all(0.0 <= limit < math.inf for limit in limits) or self.spot_check_steps < 0:
            raise InvalidOptionError(
                f"limits {limits} and {self.spot_check_steps} real steps: expected numbers >= 0"
            )


MIN_EPISODES = 50


MIN_POLICIES, MAX_OF_A_FIFTH = 20, 0.4
