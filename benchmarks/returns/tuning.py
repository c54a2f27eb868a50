"""Real return after one change of a task's configuration, on the tuning seeds 100 to 109 only.

    python -m benchmarks.returns.tuning --task Pendulum-v1 --seeds 101 --changes '{}' '{"algo_kwargs": {"gamma": 0.9}}'

A change names fields of `training.tasks.Task` or of `LearnConfig`; {} is the unchanged configuration. Changes of policy
training share the twin of their seed. Returns are those of the last policy over reset seeds that no other table uses.
Rows are added to the file; stored rows are skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from functools import partial
from pathlib import Path

import torch

from benchmarks.arguments import script_parser
from benchmarks.returns.returns import add_missing
from training.tasks import TASKS, Task, real_of, refine_task
from world_env import learn, refine
from world_env.fitting import FitWarning
from world_env.real import StepLedger
from world_env.rl import LearnConfig
from world_env.rollouts import policy_actor, run_learned, run_real
from world_env.twin import Twin

TUNING_SEEDS = range(100, 110)
EPISODES = 100
RESET_SEEDS = range(30_000, 30_000 + EPISODES)
_OF_LEARNING = {"learn_steps", "algo_kwargs", "on_uncertain"}
_TASK = set(Task.__struct_fields__)


def main() -> None:
    """Run the missing rows and write the file after each."""
    parser = script_parser(__doc__, "tuning")
    parser.add_argument("--task", required=True, choices=list(TASKS), help="task to tune")
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        required=True,
        choices=list(TUNING_SEEDS),
        help="tuning seeds of data, fit and policy",
    )
    parser.add_argument(
        "--changes",
        nargs="+",
        type=json.loads,
        default=[{}],
        help="changes to measure one by one, JSON (default: the unchanged configuration)",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FitWarning)
    for change in arguments.changes:
        for seed in arguments.seeds:
            made = {"task": arguments.task, "seed": seed, "change": change}
            measure = partial(try_change, arguments.task, seed, change)
            add_missing(arguments.out, "tuning", made, measure)


def try_change(task_id: str, seed: int, change: dict) -> dict:
    """Rest of one row: real and learned return of the changed configuration."""
    of_task = {k: v for k, v in change.items() if k in _TASK}
    task = TASKS[task_id].updated(of_task, where="change")
    rest = {name: value for name, value in change.items() if name not in _TASK}
    began = time.perf_counter()
    twin = shared_twin(
        task_id, seed, {k: v for k, v in change.items() if k in _TASK - _OF_LEARNING}
    )
    config: LearnConfig = refine_task(task, real_of(task_id), Path(), seed).learn
    policy = learn(twin, config.updated(rest, where="change"))
    real_returns = run_real(
        policy_actor(policy), real_of(task_id), RESET_SEEDS, purpose="select", ledger=StepLedger()
    )
    learned = run_learned(policy_actor(policy), twin, real_returns.first, seed=seed)
    return {
        "real_steps": task.real_steps,
        "real_mean": real_returns.mean,
        "learned_mean": learned.mean,
        "seconds": round(time.perf_counter() - began),
    }


def shared_twin(task_id: str, seed: int, change: dict) -> Twin:
    """Twin of the last round of the task, with changes of its data."""
    task = TASKS[task_id].updated(change, where="change")
    key = hashlib.sha256(json.dumps(task.to_json(), sort_keys=True).encode())
    runs = Path(os.environ.get("WORLD_ENV_RUNS", "runs")) / "tuning"
    folder = runs / f"{task_id}-{seed}-{key.hexdigest()[:8]}"
    rounds = refine_task(task, real_of(task_id), folder, seed).rounds
    last = folder / f"round-{rounds - 1}" / "twin"
    if (last / "twin.json").is_file():
        return Twin.load(last)
    # With a single round its policy is not used: one training step is enough.
    short = task if rounds > 1 else task.replace(learn_steps=1)
    ledger = StepLedger(folder / "real-steps.json")
    return refine(refine_task(short, real_of(task_id), folder, seed), ledger=ledger)[-1].twin


if __name__ == "__main__":
    main()
