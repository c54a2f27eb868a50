"""Refinement configurations for PPO and SAC."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from world_env.fitting.config import FitConfig
from world_env.refinement.config import RefineConfig
from world_env.rl.config import LearnConfig
from world_env.spec import EnvConfig
from world_env.types import JSON

MANY_STEPS = 50_000
"""Real steps from which the PPO preset refines in small rounds."""
_SMALL_ROUND = 5_000
_RANDOM_AND_HELD = "mix:0.5*random+0.5*held:5"
_TRUNCATED_ROUND = 10_000
"""Real steps of a round of the SAC preset, which has at least four rounds."""
_TRUNCATED_SAC = LearnConfig(
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
"""SAC with truncated rollouts, after MBPO (Janner et al. 2019, arXiv:1906.08253): many gradient steps on short rollouts
from states of the data, where the twin is accurate.
"""


def preset(
    real: EnvConfig, out: Path, *, algo: str = "PPO", steps: int = 10_000, seed: int = 0
) -> RefineConfig:
    """Return the default configuration of an algorithm for `steps` real steps.

    algo: "PPO" or "SAC", the algorithm that trains in the twins.
    """
    if algo == "SAC":
        plain = _truncated_rollouts(real, out, steps)
    elif steps >= MANY_STEPS:
        plain = _small_rounds(real, out, steps)
    else:
        plain = RefineConfig(real, out, steps=steps)
    exploration = "random" if steps < MANY_STEPS else _RANDOM_AND_HELD
    learn = dataclasses.replace(plain.learn, seed=seed)
    return dataclasses.replace(plain, exploration=exploration, seed=seed, learn=learn)


def _small_rounds(real: EnvConfig, out: Path, steps: int) -> RefineConfig:
    """One warm-started policy over many small rounds, two explorers, and a restart every few rounds.

    The objective has local optima, and data of one policy does not show the twin a way out of them. On tasks of
    locomotion, policies with a low discount leap and fall, and policies with a high discount stand still. With one
    explorer of each kind, the data covers the states between. A restart in a twin of more data leaves a local optimum
    that a warm start keeps. Improvements can come late, so the whole budget is spent.
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


def _truncated_rollouts(real: EnvConfig, out: Path, steps: int) -> RefineConfig:
    """Rounds of SAC with truncated rollouts: the newest policy is warm-started and collects the data."""
    return RefineConfig(
        real,
        out,
        steps=steps,
        rounds=max(4, steps // _TRUNCATED_ROUND),
        later_exploration="policy:{newest}",
        warm_start=True,
        later_updates=3_000,
        fit=FitConfig(updates=6_000, states=50_000),
        learn=_TRUNCATED_SAC,
    )


def given(fields: JSON) -> JSON:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}
