"""Stages that another process runs and that stop in their first progress report: spawned workers import this."""

import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from world_env.fitting.config import FitConfig
from world_env.fitting.fit import fit
from world_env.pipeline.build import build
from world_env.pipeline.config import BuildConfig
from world_env.policy_evaluation.config import PoolConfig
from world_env.policy_evaluation.policy_pool import pool
from world_env.real.step_ledger import StepLedger
from world_env.refinement.config import RefineConfig
from world_env.refinement.refine import refine
from world_env.rl.config import LearnConfig
from world_env.rl.learn import learn
from world_env.spec import EnvConfig
from world_env.twin.twin import Twin

REAL = EnvConfig("CartPole-v1", {"max_episode_steps": 20})
FIT = FitConfig(gradient_steps=4, validate_every=1, family="linear")
LEARN = LearnConfig(steps=256, num_envs=2, algo_kwargs={"n_steps": 16, "batch_size": 16})


def run(stage: str, folder: Path, report: Any = None) -> None:
    """Run one stage into `folder / stage`; the data of a fit are in `folder / data`."""
    out = folder / stage
    if stage == "fit":
        fit(folder / "data", out, FIT, progress=report)
    elif stage == "learn":
        learn(Twin.load("cartpole"), LEARN, out=out, progress=report)
    elif stage == "refine":
        config = RefineConfig(REAL, out, steps=200, fit=FIT, learn=LEARN)
        refine(config, ledger=StepLedger(out / "real-steps.json"), report=report)
    elif stage == "build":
        build(BuildConfig(REAL, out, steps=200, fit=FIT), report=report)
    else:
        pool(PoolConfig(REAL, out, on_policy_steps=64, off_policy_steps=64), report=report)


def run_and_wait(stage: str, folder: Path, running: Event) -> None:
    """Run a stage, and wait in its first progress report until the process is killed."""

    def wait(*_: Any) -> None:
        running.set()
        time.sleep(60)

    run(stage, folder, wait)
