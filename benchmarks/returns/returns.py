"""Real return of PPO trained only in a twin, compared with training in the real environment.

    python -m benchmarks.returns.returns --tasks CartPole-v1 --seeds 0 1 2 3 4 --resume

A cell is one task and one seed; data, world model and policies are made anew for it. All policies play the same 100
reset seeds in the real environment once, after all choices. Tuning uses the seeds 100 to 109 only.
`--only-twin --out benchmarks/results/returns_speed.json` repeats the policies of the twin after a change of the code
that must not change returns.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.arguments import script_parser
from training.tasks import TASKS, Task, real_of, refine_task
from world_env import learn, refine
from world_env.atomic_io import write_json
from world_env.fitting import FitWarning
from world_env.policies import load_policy
from world_env.provenance import facts
from world_env.real import StepLedger
from world_env.refinement import selected_policy
from world_env.rl import LearnConfig
from world_env.rollouts import (
    Returns,
    bootstrap_mean,
    policy_actor,
    random_actor,
    run_learned,
    run_real,
)
from world_env.spec import EnvConfig

EPISODES = 100
JUDGED = ("CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0")
"""Default tasks; pixel tasks must be named, a cell takes an hour."""
EVALUATION_SEEDS = range(20_000, 20_000 + EPISODES)


def main() -> None:
    """Run the missing cells and write the file after each."""
    parser = script_parser(
        __doc__, "returns", tasks=TASKS, default_tasks=JUDGED, seeds=range(5), resume=True
    )
    parser.add_argument(
        "--pairs",
        action="store_true",
        help="only compare the saved policies of stored cells with the reference of their task",
    )
    parser.add_argument(
        "--only-twin", action="store_true", help="skip the policies trained in the real environment"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FitWarning)
    runs = Path(os.environ.get("WORLD_ENV_RUNS", "runs")) / "returns"
    if arguments.pairs:
        return renew_pairs(arguments.out, arguments.tasks, arguments.seeds, runs)
    for task_id in arguments.tasks:
        for seed in arguments.seeds:
            stored = read(arguments.out) if arguments.resume else None
            if stored is not None and has_cell(stored, task_id, seed):
                continue
            began = time.perf_counter()
            cell = run_cell(
                task_id, seed, runs / f"{task_id}-{seed}", only_twin=arguments.only_twin
            )
            merge(
                arguments.out,
                arguments.out.stem,
                cell,
                keep=arguments.resume
                or (task_id, seed) != (arguments.tasks[0], arguments.seeds[0]),
            )
            shown = {
                row["policy"]: (round(row["real_mean"], 1), round(row["learned_mean"], 1))
                for row in cell["rows"]
            }
            print(
                f"{task_id} seed {seed}: {shown} {cell['pairs']} ({time.perf_counter() - began:.0f} s)",
                flush=True,
            )


def run_cell(task_id: str, seed: int, folder: Path, *, only_twin: bool = False) -> dict:
    """All policies of one task and seed: {"rows", "pairs", "cells"}. An interrupted cell is resumed."""
    task, real = TASKS[task_id], real_of(task_id)
    ledger = StepLedger(folder / "twin-real-steps.json")
    rounds = refine(refine_task(task, real, folder, seed), ledger=ledger)
    last = rounds[-1]
    actors = {"random": (random_actor(last.twin.spec.action_space, EVALUATION_SEEDS), StepLedger())}
    actors["ppo_twin"] = (policy_actor(last.policy), ledger)
    for name, config in {} if only_twin else real_configs(task, seed).items():
        own = StepLedger(folder / f"{name}-real-steps.json")
        policy = learn(
            real,
            config,
            out=folder / name,
            ledger=own,
            purpose="collect",
            encoder=None if config.observation_mode == "observation" else last.twin,
        )
        actors[name] = (policy_actor(policy), own)
    rows, returns = [], {}
    for name, (actor, own) in actors.items():
        real_returns = run_real(actor, real, EVALUATION_SEEDS, purpose="judge", ledger=own)
        learned = run_learned(actor, last.twin, real_returns.first, seed=seed)
        returns[name] = real_returns
        number = last.number if name == "ppo_twin" else 0
        rows.append(row_of(task_id, seed, number, name, real_returns, learned, own))
    pairs = []
    if task.reference_steps and not only_twin:
        pairs.append(reference_pair(task_id, task, real, seed, folder, returns["ppo_twin"]))
    made = {"task": task_id, "seed": seed} | {name: facts()[name] for name in ("commit", "date")}
    return {"rows": rows, "pairs": pairs, "cells": [made]}


def real_configs(task: Task, seed: int) -> dict[str, LearnConfig]:
    """Baselines in the real environment; they act on latents if the policy of the twin does."""
    configs = {
        "ppo_real_same_steps": LearnConfig(
            steps=task.real_steps, num_envs=1, seed=seed, algo_kwargs=task.algo_kwargs
        ),
        "offpolicy_real_same_steps": LearnConfig(
            algo=task.offpolicy,
            steps=task.real_steps,
            seed=seed,
            algo_kwargs=task.off_policy_algo_kwargs,
        ),
        "ppo_real_many_steps": LearnConfig(
            steps=task.many_steps, num_envs=8, seed=seed, algo_kwargs=task.algo_kwargs
        ),
    }
    mode = task.observation_mode or "observation"
    return {n: each.replace(observation_mode=mode) for n, each in configs.items()}


def reference_pair(
    task_id: str, task: Task, real: EnvConfig, seed: int, folder: Path, twin: Returns
) -> dict:
    """Difference to the off-policy algorithm trained for longer in the real environment, episode by episode."""
    assert task.reference_steps is not None
    same = real_configs(task, seed)["offpolicy_real_same_steps"]
    config = same.replace(steps=task.reference_steps)
    own = StepLedger(folder / f"reference-{task.reference_steps}-real-steps.json")
    policy = learn(
        real,
        config,
        out=folder / f"reference-{task.reference_steps}",
        ledger=own,
        purpose="collect",
    )
    real_returns = run_real(
        policy_actor(policy), real, EVALUATION_SEEDS, purpose="judge", ledger=own
    )
    difference = twin.values - real_returns.values
    return {
        "task": task_id,
        "seed": seed,
        "against": f"{task.offpolicy} in reality, {task.reference_steps} steps",
        "real_mean": real_returns.mean,
        "difference": float(difference.mean()),
        "difference_ci95": list(bootstrap_mean(difference)),
    } | {name: facts()[name] for name in ("commit", "date")}


def renew_pairs(path: Path, tasks: list[str], seeds: list[int], runs: Path) -> None:
    """Compare stored policies with the current reference of their task; other references are kept."""
    for task_id in tasks:
        task, real = TASKS[task_id], real_of(task_id)
        for seed in seeds if task.reference_steps else []:
            stored = read(path) or {"rows": []}
            wanted = {"task": task_id, "seed": seed}
            rows = [row for row in stored["rows"] if wanted.items() <= row.items()]
            policy = next((row for row in rows if row["policy"] == "ppo_twin"), None)
            if policy is None:
                continue
            folder = runs / f"{task_id}-{seed}"
            actor = policy_actor(load_policy(selected_policy(folder, policy["round"])))
            twin = run_real(actor, real, EVALUATION_SEEDS, purpose="judge", ledger=StepLedger())
            if twin.mean != policy["real_mean"]:
                raise SystemExit(
                    f"{folder} holds another policy than {path}: its real return is {twin.mean}, expected "
                    f"{policy['real_mean']}. Delete the cell from the file and run it again."
                )
            pair = reference_pair(task_id, task, real, seed, folder, twin)
            same = wanted | {"against": pair["against"]}
            kept = [old for old in stored["pairs"] if not same.items() <= old.items()]
            pairs = sorted([*kept, pair], key=lambda pair: (pair["task"], pair["seed"]))
            write_json(path, stored | {"pairs": pairs})
            print(pair, flush=True)


def row_of(
    task_id: str,
    seed: int,
    number: int,
    policy: str,
    real_returns: Returns,
    learned: Returns,
    ledger: StepLedger,
) -> dict:
    """One row of the results file."""
    return {
        "task": task_id,
        "real_steps": ledger.total(),
        "real_steps_by_purpose": ledger.by_purpose,
        "seed": seed,
        "round": number,
        "final": True,
        "policy": policy,
        "real_mean": real_returns.mean,
        "real_ci95": list(real_returns.ci95()),
        "learned_mean": learned.mean,
        "learned_ci95": list(learned.ci95()),
        "episodes": len(real_returns.values),
    }


def read(path: Path) -> dict | None:
    """Contents of a results file; None if it does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def has_cell(stored: dict, task_id: str, seed: int) -> bool:
    """Whether the file holds this cell."""
    return any(row["task"] == task_id and row["seed"] == seed for row in stored["rows"])


def add_missing(path: Path, benchmark: str, key: dict, measure: Callable[[], dict]) -> None:
    """Add the row of a key to the file, with commit and date; nothing is measured if the row exists."""
    stored = read(path) or {"rows": []}
    if any(key.items() <= row.items() for row in stored["rows"]):
        return
    row = key | measure() | {name: facts()[name] for name in ("commit", "date")}
    merge(path, benchmark, {"rows": [row]}, keep=True)
    print(json.dumps(row), flush=True)


def merge(path: Path, benchmark: str, cell: dict, *, keep: bool) -> None:
    """Add the rows of a cell to the file; several processes may add cells in turn."""
    stored = (read(path) if keep else None) or {}
    tree = {"benchmark": benchmark} | facts()
    for name, rows in cell.items():
        tree[name] = [*stored.get(name, []), *rows]
        tree[name].sort(key=lambda row: (row["task"], row["seed"], row.get("policy", "")))
    write_json(path, tree)


if __name__ == "__main__":
    main()
