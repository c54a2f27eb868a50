"""Refinement of a build: its rounds, from the preset of the algorithm and the settings of the build."""

from __future__ import annotations

from pathlib import Path

from world_env.fitting.config import FitConfig
from world_env.pipeline.config import BuildConfig
from world_env.refinement.config import RefineConfig
from world_env.refinement.presets import given, preset
from world_env.rl.config import LearnConfig, TwinTrainingConfig
from world_env.types import JSON

_FINAL_PPO_STEPS = 2_000_000
"""Learned steps of PPO in the twin of the last round."""


def refine_config(config: BuildConfig) -> RefineConfig:
    """Refinement of a build: the preset of its algorithm, with the values of the configuration that are not None."""
    plain = config.refinement or preset(
        config.real,
        Path(config.out),
        algo=config.algo,
        seed=config.seed,
        **given({"steps": config.steps}),
    )
    learning: JSON = {"observation_mode": config.observation_mode}
    if config.algo != "SVG":
        learning["steps"] = config.learn_steps
    fit = given({"family": config.family, "truncations": config.truncations}) | _named(config.fit)
    if config.allow_errors:
        fit["allow_errors"] = True
    if fit.get("family", plain.fit.family) != plain.fit.family:
        fit = {"model": {}} | fit  # the sizes of another family do not fit
    return plain.replace(
        **given(
            {
                "steps": config.steps,
                "rounds": config.rounds,
                "exploration": config.exploration,
                "tensorboard": config.tensorboard,
            }
        ),
        fit=plain.fit.replace(**fit),
        learn=plain.learn.replace(**given(learning)),
    )


def final_ppo(config: BuildConfig) -> LearnConfig | None:
    """Training of PPO in the twin of the last round, from scratch; None where PPO trains in every round or SAC does."""
    if config.algo != "SVG":
        return None
    return LearnConfig(
        steps=config.learn_steps or _FINAL_PPO_STEPS,
        seed=config.seed,
        simulation=TwinTrainingConfig(dataset_starts=0.3, on_uncertain="ignore"),
        algo_kwargs={"gamma": 0.995},
    )


def _named(fit: FitConfig) -> JSON:
    """The fields that are not the defaults."""
    plain = FitConfig()
    return {n: v for n in fit.__struct_fields__ if (v := getattr(fit, n)) != getattr(plain, n)}
