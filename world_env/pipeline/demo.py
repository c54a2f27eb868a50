"""Build of a CartPole twin with few real steps."""

from __future__ import annotations

from pathlib import Path

from world_env.fitting.config import FitConfig
from world_env.pipeline.build import Built, build
from world_env.pipeline.config import BuildConfig
from world_env.refinement.rounds import Report
from world_env.spec import EnvConfig


def demo(
    out: Path,
    *,
    env_id: str = "CartPole-v1",
    learn_steps: int = 150_000,
    gradient_steps: int = 2_000,
    report: Report | None = None,
) -> Built:
    """Collect 2,000 random real steps, fit a twin, train PPO in it, and compare learned with real returns."""
    fit = FitConfig(gradient_steps=gradient_steps)
    config = BuildConfig(EnvConfig(env_id), out, steps=2_000, learn_steps=learn_steps, fit=fit)
    return build(config, report=report)
