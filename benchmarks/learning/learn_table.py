"""Real return and time of PPO by numbers of environments and steps, batch size and epochs.

    python -m benchmarks.learning.learn_table --tasks CartPole-v1 Pendulum-v1 --seeds 100 101
    python -m benchmarks.learning.learn_table --tasks Hopper-v5 --seeds 100 --settings 64x64/128/10 256x64/2048/10

CartPole and Pendulum are trained in their bundled twins, Hopper in the real environment as a control. Returns are real
returns of the deterministic policy, on tuning seeds and reset seeds that no other table uses. A setting is
ENVIRONMENTSxSTEPS/BATCH/EPOCHS with the default learning rate (`--change`: other options of PPO). Stored rows are
skipped. `seconds` are the time of training alone, `environment_seconds` the part of environment steps.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks.arguments import option, script_parser
from benchmarks.returns.returns import merge, read
from benchmarks.returns.tuning import TUNING_SEEDS
from benchmarks.speed.timing import Watch
from training.tasks import TASKS, real_of, refine_task
from world_env import collect, learn
from world_env.collection import CollectConfig
from world_env.data import robust_scale
from world_env.envs import WorldModelSB3VecEnv
from world_env.policies import HeldExploration
from world_env.provenance import facts
from world_env.real import StepLedger
from world_env.rl import LearnConfig, RealTrainingConfig, TwinTrainingConfig
from world_env.rollouts import policy_actor, run_real
from world_env.spec import EnvConfig
from world_env.twin import Twin
from world_env.types import JSON

BENCHMARK = "learn_table"
SETTINGS = (
    "64x64/256/10",
    "64x64/128/10",
    "16x128/64/10",
    "64x64/512/10",
    "64x64/256/5",
    "256x16/256/10",
    "512x8/512/10",
    "256x64/2048/10",
    "512x32/4096/10",
)
CONTROL = {"Hopper-v5": 700_000}
"""Tasks trained in the real environment -> steps."""
RESET_SEEDS = range(50_000, 50_050)
CHECKS = 7


def main() -> None:
    """Run the missing rows and write the file after each."""
    tasks = [*CONTROL, "CartPole-v1", "Pendulum-v1"]
    parser = script_parser(__doc__, BENCHMARK, tasks=tasks, seeds=[100], seed_choices=TUNING_SEEDS)
    option(parser, "--settings", SETTINGS, "settings ENVIRONMENTSxSTEPS/BATCH/EPOCHS")
    parser.add_argument("--change", type=json.loads, default={}, help="more options of PPO as JSON")
    parser.add_argument("--steps", type=int, help="training steps (default: those of the task)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    made = {name: facts()[name] for name in ("commit", "date")}
    for task in arguments.tasks:
        for setting in arguments.settings:
            for seed in arguments.seeds:
                steps = arguments.steps or CONTROL.get(task) or learning_of(task).steps
                row = {"task": task, "seed": seed, "setting": setting}
                row |= {"change": arguments.change, "steps": steps}
                stored = read(arguments.out) or {"rows": []}
                if any(row.items() <= old.items() for old in stored["rows"]):
                    continue
                row |= one(task, setting, seed, steps, arguments.change) | made
                merge(arguments.out, BENCHMARK, {"rows": [row]}, keep=True)
                print(json.dumps(row), flush=True)


def learning_of(task: str) -> LearnConfig:
    """Configuration of policy training in the twin of a task."""
    return refine_task(TASKS[task], real_of(task), Path(), 0).learn


def one(task: str, setting: str, seed: int, steps: int, change: JSON) -> JSON:
    """Train once; returns during and after training, and its time."""
    shape, batch, epochs = setting.split("/")
    rows, rollout = (int(word) for word in shape.split("x"))
    options = {"n_steps": rollout, "batch_size": int(batch), "n_epochs": int(epochs)} | change
    world: Twin | EnvConfig
    if task in CONTROL:
        world = real_of(task)
        config = LearnConfig(
            steps=steps,
            num_envs=rows,
            seed=seed,
            algo_kwargs=options,
            real=RealTrainingConfig(normalization=exploring_scales(task)),
        )
    else:
        world = Twin.load(TASKS[task].twin)
        config = LearnConfig(
            steps=steps,
            num_envs=rows,
            seed=seed,
            algo_kwargs=learning_of(task).algo_kwargs | options,
            simulation=TwinTrainingConfig(on_uncertain=learning_of(task).simulation.on_uncertain),
        )
    watch, checks = Watch(), Checks(task, steps)
    shell = WorldModelSB3VecEnv if isinstance(world, Twin) else DummyVecEnv
    with ExitStack() as stack:
        stack.enter_context(watch.of(shell, "step_wait", "environment"))
        began = time.perf_counter()
        model = learn(world, config, ledger=StepLedger(), callbacks=[checks])
        seconds = time.perf_counter() - began - checks.seconds
    returns = checks.returns(model, RESET_SEEDS)
    return {
        "world": "learned" if isinstance(world, Twin) else "real",
        "real_mean": round(float(returns.mean()), 2),
        "real_deviation": round(float(returns.std()), 2),
        "curve": checks.curve,
        "seconds": round(seconds, 3),
        "environment_seconds": round(watch.seconds()["environment"], 3),
    }


def exploring_scales(task: str) -> JSON:
    """{"mean", "scale"} of 5,000 exploration steps, as normalisation of a policy."""
    folder = Path(os.environ.get("WORLD_ENV_RUNS", "runs")) / BENCHMARK / task
    store = collect(
        CollectConfig(real_of(task), folder, 5_000, HeldExploration(steps=5), TUNING_SEEDS[0])
    )
    columns = torch.cat([torch.as_tensor(e.observations) for e in store.load()]).numpy()
    mean, scale = robust_scale(columns)
    return {"mean": mean.tolist(), "scale": scale.tolist()}


class Checks(BaseCallback):
    """Real evaluation episodes during training; their steps are not trained on, their time is not counted."""

    def __init__(self, task: str, steps: int) -> None:
        super().__init__()
        self.task, self.every = task, steps // CHECKS
        self.curve: list[list[float]] = []
        self.seconds = 0.0

    def returns(self, model: Any, seeds: range) -> Any:
        """Real returns of the deterministic policy, one for each reset seed."""
        actor = policy_actor(model)
        ledger = StepLedger()
        return run_real(actor, EnvConfig(self.task), seeds, purpose="select", ledger=ledger).values

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= (len(self.curve) + 1) * self.every:
            began = time.perf_counter()
            returns = self.returns(self.model, RESET_SEEDS[:5])
            self.curve.append([self.num_timesteps, round(float(returns.mean()), 1)])
            self.seconds += time.perf_counter() - began

    def _on_step(self) -> bool:
        return True


if __name__ == "__main__":
    main()
