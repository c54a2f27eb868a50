"""Open-loop error of the ensemble by the number of past observations that a step takes (`EnsembleConfig.history`).

    python -m benchmarks.families.history --seeds 0 1 2 --resume

Every model of a task and seed is fitted to the same 5,000 real steps of random and held actions. Errors are those of
the validation split after 10 and 50 steps, in standard deviations of the data.
"""

from __future__ import annotations

import os
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from benchmarks.arguments import script_parser
from benchmarks.returns.returns import add_missing
from world_env import CollectConfig, FitConfig, collect
from world_env.fitting import fit_episodes
from world_env.policies import random_and_held
from world_env.spec import EnvConfig, WrapperConfig
from world_env.types import JSON

BENCHMARK = "history"
STEPS, DEAD_TIME = 5_000, 2
HISTORIES = (1, 2, 4)
HORIZONS = (10, 50)
_WITHOUT_VELOCITY = WrapperConfig("world_env.wrappers:SelectColumns", {"columns": [0, 1]})
TASKS = {
    "Pendulum-v1": EnvConfig("Pendulum-v1"),
    "Pendulum-v1 without velocity": EnvConfig("Pendulum-v1", {}, (_WITHOUT_VELOCITY,)),
    "Pendulum-v1 with a dead time": EnvConfig(
        "Pendulum-v1", {}, (WrapperConfig("benchmarks.families.history:DeadTime"),)
    ),
    "Hopper-v5": EnvConfig("Hopper-v5"),
    "HalfCheetah-v5": EnvConfig("HalfCheetah-v5"),
}


class DeadTime(gym.Wrapper[Any, Any, Any, Any]):
    """Environment whose actions act two steps late; actions 0 before."""

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Reset, with no action on its way."""
        space = self.action_space
        self.late = deque([np.zeros(space.shape or (), space.dtype)] * DEAD_TIME)
        return self.env.reset(**options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step with the action of two steps before."""
        self.late.append(np.array(action))
        return self.env.step(self.late.popleft())


def main() -> None:
    """Run the missing rows and write the file after each."""
    parser = script_parser(__doc__, BENCHMARK, tasks=TASKS, seeds=range(3), resume=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.resume:
        arguments.out.unlink(missing_ok=True)
    for task in arguments.tasks:
        for seed in arguments.seeds:
            for history in HISTORIES:
                key = {"task": task, "seed": seed, "history": history}
                add_missing(arguments.out, BENCHMARK, key, partial(measured, task, seed, history))


def measured(task: str, seed: int, history: int) -> JSON:
    """Rest of one row: a fit, and its errors."""
    runs = Path(os.environ.get("WORLD_ENV_RUNS", "runs")) / BENCHMARK
    folder = runs / f"{task.replace(' ', '-')}-{seed}"
    store = collect(
        CollectConfig(TASKS[task], folder, STEPS, random_and_held(5), seed), on_issues=None
    )
    config = FitConfig(seed=seed, model={"history": history}, allow_errors=True)
    twin = fit_episodes(store.load(), store.spec, config, issues=[])
    curve = twin.fidelity.open_loop
    assert curve is not None
    last = len(curve.error)
    return {
        "real_steps": store.steps,
        "errors": [
            {"step": step, "error": curve.error[step - 1], "hold_last": curve.hold_last[step - 1]}
            for step in HORIZONS
            if step <= last
        ],
        "open_loop": twin.fidelity.loss.best_open_loop,
        "reward_error": twin.fidelity.reward_error,
        "seconds": twin.provenance.fit_seconds,
    }


if __name__ == "__main__":
    main()
