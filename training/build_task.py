"""Build the twin of one of our tasks: `python -m training.build_task Pendulum-v1`.

The values of the task's row (training/tasks.py) in place of the library's defaults: collect, fit, train, compare, and
one folder with the twin, its card and a page.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Literal

import torch

from training.tasks import TASKS, pool_task, real_of, refine_task
from world_env import BuildConfig, build
from world_env.pipeline import planned_steps
from world_env.policy_evaluation import pool


def build_task_config(
    name: str,
    out: Path,
    *,
    seed: int = 0,
    algo: Literal["PPO", "SAC"] = "PPO",
    steps: int | None = None,
) -> BuildConfig:
    """The build of a task's row; `steps` replaces the row's real steps."""
    task, real = TASKS[name], real_of(name)
    if steps is not None:
        task = task.replace(real_steps=steps)
    rounds = refine_task(task, real, out, seed, algo=algo)
    baseline = task.algo_kwargs if algo == "PPO" else {}
    return BuildConfig(
        real, out, algo=algo, seed=seed, baseline_algo_kwargs=baseline, refinement=rounds
    )


def main() -> None:
    """Read the arguments and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS, metavar="TASK", help=f"one of {', '.join(TASKS)}")
    parser.add_argument("--out", type=Path, help="folder (default: runs/build/TASK-SEED)")
    parser.add_argument("--seed", type=int, default=0, help="seed of data, model and policy")
    parser.add_argument("--algo", choices=("PPO", "SAC"), default="PPO", help="default: PPO")
    parser.add_argument("--steps", type=int, help="real steps (default: the task's)")
    parser.add_argument(
        "--judge-episodes", type=int, default=100, help="real episodes of the comparison"
    )
    parser.add_argument(
        "--pool", action="store_true", help="train the task's policy pool first, in runs/pools/TASK"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    runs = Path(os.environ.get("WORLD_ENV_RUNS", "runs"))
    out = arguments.out or runs / "build" / f"{arguments.task}-{arguments.seed}"
    config = build_task_config(
        arguments.task, out, seed=arguments.seed, algo=arguments.algo, steps=arguments.steps
    )
    if arguments.pool:
        folder = runs / "pools" / arguments.task
        if TASKS[arguments.task].observation_mode is not None:
            parser.error("the pool of a task on latents is made by benchmarks.agreement.agreement")
        pool(pool_task(TASKS[arguments.task], real_of(arguments.task), folder))
        config = config.replace(pool=folder)
    config = config.replace(judge_episodes=arguments.judge_episodes)
    print(planned_steps(config))
    built = build(config)
    print(built.comparison)
    print(
        f"twin: {built.twin_folder}\npolicy: {built.rounds[-1].policy_folder}\npage: {built.page}"
    )


if __name__ == "__main__":
    main()
