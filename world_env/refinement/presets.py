"""Refinement configurations for PPO, SAC and SVG."""

from __future__ import annotations

from pathlib import Path

from world_env.fitting.config import FitConfig
from world_env.policies.config import (
    CountBasedExploration,
    ExplorationConfig,
    MixtureExploration,
    PolicyExploration,
    RandomExploration,
    random_and_held,
)
from world_env.real.real_env import spec_of
from world_env.refinement.config import RefineConfig
from world_env.rl.config import LearnConfig, TwinTrainingConfig
from world_env.spec import EnvConfig
from world_env.types import JSON

MANY_STEPS = 50_000
"""Real steps from which the PPO preset refines in small rounds, where one round cannot show everything."""
_SMALL_ROUND = 5_000
_STEPS_PER_PAIR = 10
"""Real steps per pair of state and action from which the presets have one round of count-based exploration."""
_TABLE_LEARN_STEPS = 1_000_000
"""Learned steps in the twin of a table: actions of a state can differ by 1 % in value, and PPO needs many samples to
tell them apart."""
_SHORT_ROUND = 1_000
"""Real steps of a round of the SVG preset after the first one."""
_FEWEST_UPDATES = 20_000
"""Updates of all rounds of the SVG preset together, where one a real step would be fewer."""
_TRUNCATED_ROUND = 10_000
"""Real steps of a round of the SAC preset, which has at least four rounds."""
_TRUNCATED_SAC = LearnConfig(
    algo="SAC",
    num_envs=256,
    steps=960_000,
    simulation=TwinTrainingConfig(
        dataset_starts=0.95, dataset_rollout_length=10, on_uncertain="truncate"
    ),
    algo_kwargs={
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

    algo: "PPO", "SAC" or "SVG", the algorithm that trains in the twins.
    Raises what `spec_of` raises: the spaces of the environment choose the configuration.
    """
    pairs = spec_of(real).pairs
    covered = pairs is not None and pairs * _STEPS_PER_PAIR <= steps
    many = steps >= MANY_STEPS and not covered
    exploration: ExplorationConfig = random_and_held(5) if many else RandomExploration()
    if algo == "SVG":
        plain = _short_rounds(real, out, steps)
    elif algo == "SAC":
        plain = _truncated_rollouts(real, out, steps)
    elif many:
        plain = _small_rounds(real, out, steps)
    else:
        plain = RefineConfig(real, out, steps=steps)
    if covered:
        # It tries every pair, and a policy of the first twin would not: one round.
        exploration = CountBasedExploration()
        plain = plain.replace(learn=plain.learn.replace(steps=_TABLE_LEARN_STEPS))
    return plain.replace(exploration=exploration, seed=seed, learn=plain.learn.replace(seed=seed))


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
        later_exploration=MixtureExploration(
            parts=tuple(PolicyExploration(path=name) for name in ("newest", "hasty", "steady")),
            weights=(0.34, 0.33, 0.33),
        ),
        explorers={
            "hasty": {"algo_kwargs": {"gamma": 0.99}},
            "steady": {"algo_kwargs": {"gamma": 0.998}},
        },
        explorer_steps=130_000,
        real_evaluation_share=0.1,
        warm_start=True,
        restart_every=5,
        max_candidates=3,
        patience=None,
        later_gradient_steps=1_500,
        fit=FitConfig(gradient_steps=4_000, max_dataset_states=20_000),
        learn=LearnConfig(
            steps=300_000,
            simulation=TwinTrainingConfig(dataset_starts=0.3, on_uncertain="ignore"),
            algo_kwargs={"gamma": 0.995},
        ),
    )


def _truncated_rollouts(real: EnvConfig, out: Path, steps: int) -> RefineConfig:
    """Rounds of SAC with truncated rollouts: the newest policy is warm-started and collects the data."""
    return RefineConfig(
        real,
        out,
        steps=steps,
        rounds=max(4, steps // _TRUNCATED_ROUND),
        later_exploration=PolicyExploration(path="newest"),
        warm_start=True,
        later_gradient_steps=3_000,
        fit=FitConfig(gradient_steps=6_000, max_dataset_states=50_000),
        learn=_TRUNCATED_SAC,
    )


def _short_rounds(real: EnvConfig, out: Path, steps: int) -> RefineConfig:
    """Many short rounds of SVG: model and policy continue from those of the round before.

    At least one update for each real step, after Heess et al. 2015 (arXiv:1510.09142) and Amos et al. 2021
    (arXiv:2008.12775).
    """
    first = min(5_000, max(1_000, steps // 20), steps)
    rounds = 1 + (steps - first) // _SHORT_ROUND
    return RefineConfig(
        real,
        out,
        steps=steps,
        first_steps=first if rounds > 1 else None,
        rounds=rounds,
        later_exploration=PolicyExploration(path="newest"),
        real_evaluation_share=0.1,
        warm_start=True,
        patience=None,
        max_candidates=1,
        later_gradient_steps=600,
        updates_per_step=max(1.0, _FEWEST_UPDATES / steps),
        fit=FitConfig(
            gradient_steps=4_000,
            validate_every=200,
            batch_size=1_792,
            eval_horizon=50,
            max_dataset_states=20_000,
            model={"members": 7, "width": 192, "rollout": 4, "one_step_share": 0.95},
        ),
        learn=LearnConfig(
            algo="SVG",
            algo_kwargs={"batch_size": 128},
            simulation=TwinTrainingConfig(on_uncertain="ignore"),
        ),
    )


def given(fields: JSON) -> JSON:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}
