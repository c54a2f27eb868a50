"""Refinement of a build: its rounds, from the preset of the algorithm and the settings of the build."""

from __future__ import annotations

from pathlib import Path

from world_env.fitting.config import FitConfig
from world_env.pipeline.config import BuildConfig
from world_env.refinement.config import RefineConfig
from world_env.refinement.presets import given, preset
from world_env.types import JSON


def refine_config(config: BuildConfig) -> RefineConfig:
    """Refinement of a build: the preset of its algorithm, with the values of the configuration that are not None."""
    plain = config.refinement or preset(
        config.real,
        Path(config.out),
        algo=config.algo,
        seed=config.seed,
        **given({"steps": config.steps}),
    )
    learning = {"steps": config.learn_steps, "observation_mode": config.observation_mode}
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


def _named(fit: FitConfig) -> JSON:
    """The fields that are not the defaults."""
    plain = FitConfig()
    return {n: v for n in fit.__struct_fields__ if (v := getattr(fit, n)) != getattr(plain, n)}
