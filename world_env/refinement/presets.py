"""Refinement configurations for PPO and SAC."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from world_env.fitting.config import FitConfig
from world_env.refinement.config import RefineConfig
from world_env.rl.config import LearnConfig
from world_env.spec import EnvConfig

MANY_STEPS = 50_000
"""Real steps from which PPO's twins are refined in small rounds, where a task's row does not say otherwise."""
_SMALL_ROUND = 5_000
_RANDOM_AND_HELD = "mix:0.5*random+0.5*held:5"
_SHORT_ROUND = 10_000
"""Real steps of a round for `SHORT_BRANCHES`; fewer where that would be less than four rounds."""
SHORT_BRANCHES = LearnConfig(
    algo="SAC",
    rows=256,
    steps=960_000,
    dataset_starts=0.95,
    branch_length=10,
    on_uncertain="truncate",
    options={
        "train_freq": 4,
        "gradient_steps": 32,
        "batch_size": 256,
        "learning_starts": 1_000,
        "learning_rate": 1e-3,
        "policy_kwargs": {"net_arch": [128, 128]},
    },
)
"""An off-policy algorithm in a twin, after MBPO (Janner et al. 2019, arXiv:1906.08253): many updates on branches of a
few steps from all states of the data, where the twin is right; what lies further on is learned when data comes there.
"""


def preset(
    real: EnvConfig, out: Path, *, algo: str = "PPO", steps: int = 10_000, seed: int = 0
) -> RefineConfig:
    """The one default configuration of an algorithm for `steps` real steps.

    algo: "PPO" or "SAC", the algorithm that trains in the twins.
    """
    if algo == "SAC":
        plain = _short_rollouts(real, out, steps)
    elif steps >= MANY_STEPS:
        plain = _small_rounds(real, out, steps)
    else:
        plain = RefineConfig(real, out, steps=steps)
    exploration = "random" if steps < MANY_STEPS else _RANDOM_AND_HELD
    learn = dataclasses.replace(plain.learn, seed=seed)
    return dataclasses.replace(plain, exploration=exploration, seed=seed, learn=learn)


def _small_rounds(real: EnvConfig, out: Path, steps: int) -> RefineConfig:
    """One policy that goes on through many rounds, two that explore for it, and now and then one that begins anew.

    A policy's objective has resting places, and data of it alone shows the twin nothing else: who discounts much leaps
    and falls, who discounts little stands still. The two explorers are of either kind, and a twin of both knows what
    lies between them. A policy that rests does not leave even so; one that begins anew in a twin that knows more does
    not come to rest there. Until then no round finds a better one, so the budget is spent in any case.
    """
    return RefineConfig(
        real,
        out,
        steps=steps,
        rounds=steps // _SMALL_ROUND,
        later_exploration="mix:0.34*policy:{newest}+0.33*policy:{hasty}+0.33*policy:{steady}",
        explorers={
            "hasty": {"options": {"gamma": 0.99}},
            "steady": {"options": {"gamma": 0.998}},
        },
        explorer_steps=130_000,
        spot_checks=0.1,
        warm_start=True,
        candidates=("newest",),
        restart_every=5,
        compared=3,
        patience=None,
        later_updates=1_500,
        fit=FitConfig(updates=4_000, states=20_000),
        learn=LearnConfig(
            steps=300_000,
            dataset_starts=0.3,
            on_uncertain="ignore",
            options={"gamma": 0.995},
        ),
    )


def _short_rollouts(real: EnvConfig, out: Path, steps: int) -> RefineConfig:
    """Rounds for `SHORT_BRANCHES`: the policy continues from round to round, and collects with its newest version."""
    return RefineConfig(
        real,
        out,
        steps=steps,
        rounds=max(4, steps // _SHORT_ROUND),
        later_exploration="policy:{newest}",
        warm_start=True,
        candidates=("newest",),
        later_updates=3_000,
        fit=FitConfig(updates=6_000, states=50_000),
        learn=SHORT_BRANCHES,
    )
