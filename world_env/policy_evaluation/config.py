"""Settings of policy pools and of the exploitation alarm."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

from world_env.errors import InvalidOptionError
from world_env.real.env_config import take_env
from world_env.spec import EnvConfig
from world_env.struct import Struct
from world_env.types import JSON

MIN_EPISODES = 5
"""Fewest episodes of a comparison of learned and real returns."""
MIN_POLICIES, MAX_OF_A_FIFTH = 20, 0.4
"""Fewest policies of a pool, and largest share of them in one fifth of the range of real returns."""


class PoolConfig(Struct, frozen=True):
    """Settings of a policy pool: policies trained in the real environment only, to evaluate twins."""

    real: EnvConfig
    """The real environment."""
    out: Path
    """Folder of the pool. Run again with the same folder to resume."""
    policies: int = 24
    """Number of policies, at least 20. The pool keeps fewer if their real returns are too similar."""
    on_policy_steps: int = 200_000
    """Real environment steps of each on-policy run (PPO, A2C). Policies are saved along the run."""
    off_policy_steps: int = 20_000
    """Real environment steps of each off-policy run (DQN, SAC, TD3). Policies are saved along the run."""
    num_envs: int | None = None
    """Number of real environments that on-policy runs open at the same time (None: 8). 1: for a simulator of which only
    one can be open."""
    episodes: int = 100
    """Real evaluation episodes per policy, at least 2. More episodes narrow the intervals of the agreement."""
    scripted: str | None = None
    """A scripted policy to add, as "module:function" from batched observations to batched actions. None: no such
    policy."""
    algo_kwargs: JSON = {}
    """Arguments of PPO that differ from the defaults, as in LearnConfig."""
    off_policy_algo_kwargs: JSON = {}
    """Arguments of DQN that differ from the defaults, as in LearnConfig."""
    encoder: str | None = None
    """Bundled twin or folder whose model gives all policies their latent observations. The pool cannot evaluate this
    twin. None: policies act on the observations of the environment."""
    seed: int = 0
    """Seed of the training runs."""
    max_real_steps: int | None = None
    """Limit of the real environment steps of all purposes, those of earlier runs in the folder included. The pool stops
    before the step that would exceed it and keeps what was trained. None: no limit."""

    omitted_if_none: ClassVar[tuple[str, ...]] = ("num_envs",)

    @property
    def parallel_envs(self) -> int:
        """`num_envs`, or its default."""
        return 8 if self.num_envs is None else self.num_envs

    def __post_init__(self) -> None:
        take_env(self)
        if self.num_envs is not None and self.num_envs < 1:
            raise InvalidOptionError(f"num_envs must be >= 1, got {self.num_envs}")
        if self.policies < MIN_POLICIES:
            raise InvalidOptionError(
                f"policies is {self.policies}, expected at least {MIN_POLICIES}: correlations of fewer are uncertain"
            )
        if self.episodes < 2:
            raise InvalidOptionError(f"episodes is {self.episodes}, expected at least 2")


class AlarmConfig(Struct, frozen=True):
    """Settings of the exploitation alarm. `benchmarks/diagnostics/alarm.py` measures the limits."""

    every: int = 50_000
    """Learned environment steps between two checks. The final policy is always checked."""
    episodes: int = 32
    """Learned episodes per check, in the twin and in the second twin; at least 2. More episodes detect smaller gaps."""
    stop: bool = False
    """Stop the training at the first finding. Otherwise findings only warn."""
    reward_share: float = 0.02
    """Limit of "reward": share of steps with a reward outside the data range."""
    reward_margin: float = 0.02
    """Margin of "reward" around the data range of rewards, in widths of that range (of the largest absolute reward
    where all rewards are equal)."""
    uncertain_share: float = 0.5
    """Limit of "uncertainty": share of out-of-distribution steps."""
    frozen_share: float = 0.25
    """Limit of "frozen": change of the observation per step, as a share of the change in the second twin."""
    return_gap: float = 0.1
    """Limit of "second_twin" and "real_evaluation": learned mean return minus that of the second twin or of the real
    environment, as a share of the larger absolute value."""
    real_evaluation_steps: int = 0
    """Real environment steps for all real evaluation episodes together (0: none). They reveal errors of both twins."""
    real_evaluation_every: int = 100_000
    """Learned environment steps between two evaluations in the real environment. The final policy is always
    evaluated."""
    real_evaluation_episodes: int = 5
    """Real episodes per evaluation, at least 2; fewer where the remaining real steps are too few."""
    seed: int = 0
    """Seed of the learned episodes and of the resets of the real environment."""

    def __post_init__(self) -> None:
        for name, least in (
            *(("every", 1), ("real_evaluation_every", 1), ("real_evaluation_steps", 0)),
            *(("episodes", 2), ("real_evaluation_episodes", 2)),
        ):
            if getattr(self, name) < least:
                raise InvalidOptionError(
                    f"{name} is {getattr(self, name)}, expected at least {least}"
                )
        for name in (
            "reward_share",
            "reward_margin",
            "uncertain_share",
            "frozen_share",
            "return_gap",
        ):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise InvalidOptionError(
                    f"{name} is {getattr(self, name)}, expected a finite number >= 0"
                )
