"""Policies that never saw reality train, round after round, beside what else one could do: MuJoCo, 100,000 real steps.

    python -m benchmarks.refinement.refined --tasks Hopper-v5 HalfCheetah-v5 --seeds 0 1 2 --resume
    python -m benchmarks.refinement.refined --tasks Hopper-v5 --seeds 0 --columns ppo_real_long --resume      # one control
    python -m benchmarks.refinement.refined --tasks Hopper-v5 --seeds 102 --change '{"rounds": 5}' --resume   # an arm, tuning seed
    python -m benchmarks.refinement.refined --tasks Hopper-v5 --seeds 103 --columns ppo_twin --arms "no sharp ends" --resume

A row is one policy of one (task, seed), judged once at the end over the same 100 reset seeds; `rounds` hold what every
round predicted (of many rounds, ten) and what its policy earns in reality, judged at the end too, when nothing reads it
any more. Columns:

    ppo_twin              PPO, only ever in the twin, rounds as in the task's row (training/tasks.py)
    ppo_twin_known        the same, with the task's true termination function instead of a learned one, where it has one
    sac_twin              SAC, only ever in the twin, in short branches (world_env/refinement/config.py)
    sac_twin_known        the same, with the true termination function
    ppo_real_twin_steps   PPO of the same configuration in reality, as many steps as `ppo_twin` learned from
    ppo_real_long         PPO of the default configuration in reality at 1,000,000 steps: the bar
    ppo_real_long_few     the same in 8 rows, as one would without a twin: the bar where higher
    ppo_real_same_steps   PPO in reality, as many steps as the twin cost
    sac_real_same_steps   SAC in reality, as many
    random                not trained

Policies in reality get the scales of 5,000 exploring real steps, which count, as those in a twin get the data's.
`forward_mean`: the reward for going forward alone, where the environment tells it apart (standing still earns about
1,000 in Hopper). Tuning seeds are 100 to 109; they are never judged.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib
import itertools
import json
import os
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from benchmarks.learning.learn_table import exploring_scales
from benchmarks.refinement.refined_arms import ARMS
from benchmarks.refinement.refined_table import applies
from benchmarks.returns.returns import JUDGE_SEEDS, merge, read
from training.tasks import TASKS, Task, real_of, refine_task
from world_env import learn, refine
from world_env.fitting import FitWarning
from world_env.provenance import facts
from world_env.real import StepLedger, spec_of
from world_env.refinement import RefineConfig, Round
from world_env.rl import LearnConfig
from world_env.rollouts import Returns, policy_actor, random_actor, run_real
from world_env.twin import KnownFunction
from world_env.types import JSON

BENCHMARK = "refined"
LONG = 1_000_000
"""Real steps of the bar; tasks whose rows ask for as many are measured here."""
ROUND_SEEDS = JUDGE_SEEDS[:20]
"""Reset seeds of the rounds' policies."""
JUDGED_ROUNDS = 10
EXPLORING = 5_000
TWINS = ("ppo_twin", "ppo_twin_known", "sac_twin", "sac_twin_known")
ROWS = {"ppo_real_same_steps": 1, "ppo_real_long_few": 8}
"""Rows of PPO where they are not those in a twin."""
IN_REALITY = ("algo", "rows", "options", "normalize_rewards")
"""Fields of LearnConfig that mean something in reality, where controls have steps of their own."""
COLUMNS = (
    "ppo_twin",
    "random",
    "ppo_real_long",
    "ppo_real_long_few",
    "sac_real_same_steps",
    "ppo_real_twin_steps",
    "ppo_real_same_steps",
    "sac_twin",
    "sac_twin_known",
    "ppo_twin_known",
)


def main() -> None:
    """Run the missing rows and write the file after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    tasks = [name for name, task in TASKS.items() if task.many_steps >= LONG]
    parser.add_argument(
        "--tasks", nargs="+", default=["Hopper-v5", "HalfCheetah-v5"], choices=tasks
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--columns", nargs="+", default=list(COLUMNS), choices=COLUMNS)
    parser.add_argument(
        "--change",
        type=json.loads,
        default={},
        help="what differs from the task's row, JSON: RefineConfig's fields, fit, learn (in reality too), model",
    )
    parser.add_argument(
        "--arms",
        nargs="+",
        choices=ARMS,
        help="changes by name (refined_arms.py), one after another",
    )
    parser.add_argument("--out", type=Path, default=Path(f"benchmarks/results/{BENCHMARK}.json"))
    parser.add_argument("--resume", action="store_true", help="keep the rows of the file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FitWarning)
    keep = arguments.resume
    changes = [ARMS[arm] for arm in arguments.arms or ()] or [arguments.change]
    for task_id, seed, change in itertools.product(arguments.tasks, arguments.seeds, changes):
        for column in arguments.columns:
            if not applies(column, task_id):
                continue
            cell = Cell(task_id, seed, change, arguments.out if keep else None)
            stored = read(arguments.out) if keep else None
            if stored is not None and any(
                cell.of(column).items() <= row.items() for row in stored["rows"]
            ):
                continue
            made = cell.run(column)
            merge(arguments.out, BENCHMARK, made, keep=keep)
            keep = True
            print(json.dumps(made["rows"]), flush=True)


def changed(config: RefineConfig, change: JSON) -> RefineConfig:
    """The configuration with some fields changed; "fit", "learn" and "model" (of the fit) name fields of theirs."""
    fields = dict(change)
    fit = fields.pop("fit", {}) | ({"model": fields.pop("model")} if "model" in fields else {})
    learning = fields.pop("learn", {})
    if "candidates" in fields:
        fields["candidates"] = tuple(fields["candidates"])
    return dataclasses.replace(
        config,
        fit=dataclasses.replace(config.fit, **fit),
        learn=dataclasses.replace(config.learn, **learning),
        **fields,
    )


def _slug(change: JSON) -> str:
    """A short name for a change, for its folder."""
    return hashlib.sha256(json.dumps(change, sort_keys=True).encode()).hexdigest()[:8]


def function_of(name: str) -> KnownFunction:
    """What "module:function" names."""
    module, _, function = name.partition(":")
    found: KnownFunction = getattr(importlib.import_module(module), function)
    return found


class Cell:
    """All columns of one (task, seed) and change; their runs lie in one folder.

    results: the file of rows that are there already, if any.
    """

    def __init__(self, task_id: str, seed: int, change: JSON, results: Path | None = None) -> None:
        self.results = results
        self.task_id, self.seed, self.change = task_id, seed, change
        self.task: Task = TASKS[task_id]
        self.real = real_of(task_id)
        name = "-".join([task_id, str(seed), *([_slug(change)] if change else [])])
        self.folder = Path(os.environ.get("WORLD_ENV_RUNS", "runs")) / BENCHMARK / name

    def of(self, column: str) -> JSON:
        """What tells a row from all others."""
        change = self.change
        if "twin" not in column:
            learning = change.get("learn", {}) if column != "random" else {}
            learning = {name: value for name, value in learning.items() if name in IN_REALITY}
            change = {"learn": learning} if learning else {}
        return {"task": self.task_id, "seed": self.seed, "policy": column, "change": change}

    def run(self, column: str) -> JSON:
        """{"rows", "rounds"} of one column; a killed run goes on where it was."""
        began = time.perf_counter()
        ledger = StepLedger(self.folder / f"{column}-real-steps.json")
        found: list[Round] = []
        if column == "random":
            actor, steps = random_actor(spec_of(self.real).action_space, JUDGE_SEEDS), 0
        elif column in TWINS:
            found = self.refine(column, ledger)
            actor, steps = policy_actor(found[-1].policy), found[-1].learned_steps
        else:
            actor, steps = self.control(column, ledger)
        seconds = time.perf_counter() - began
        reality = run_real(actor, self.real, JUDGE_SEEDS, purpose="judge", ledger=ledger)
        made = {name: facts()[name] for name in ("commit", "date")}
        row = self.of(column) | {"learned_steps": steps} | returns_of(reality)
        counted = Counter(ledger.by_purpose)
        if column.startswith("ppo_real"):
            counted["collect"] += EXPLORING  # of other runs
        row |= {"real_steps": counted.total() - counted["judge"], "real_steps_by_purpose": counted}
        row |= {
            "predicted_return": found[-1].log["predicted_return"] if found else None,
            "seconds": round(seconds, 1),
        }
        every = max(1, len(found) // JUDGED_ROUNDS)
        kept = range(len(found) - 1, -1, -every)[::-1]
        rounds = [self.of(column) | self.judged(found[number]) | made for number in kept]
        return {"rows": [row | made], "rounds": rounds}

    def refine(self, column: str, ledger: StepLedger) -> list[Round]:
        """The rounds of a column, read back where they are finished."""
        ends = None
        if column.endswith("_known"):
            assert self.task.termination is not None
            ends = function_of(self.task.termination)
        algo = column[:3].upper()
        config = refine_task(self.task, self.real, self.folder / column, self.seed, algo=algo)
        config = changed(config, self.change)
        return refine(config, ledger=ledger, termination_fn=ends)

    def control(self, column: str, ledger: StepLedger) -> tuple[Any, int]:
        """(actor, steps it learned from) of what one could do instead."""
        if column == "ppo_real_twin_steps":
            steps = self.twin_steps()
            same = refine_task(self.task, self.real, self.folder, self.seed, algo="PPO")
            config = changed(same, self.change).learn
        else:
            steps = LONG if "_long" in column else self.task.real_steps
            plain = (
                LearnConfig(algo="SAC")
                if column.startswith("sac")
                else LearnConfig(options=self.task.options)
            )
            learning = self.of(column)["change"].get("learn", {})
            config = dataclasses.replace(plain, seed=self.seed, **learning)
        config = dataclasses.replace(config, steps=steps)
        if column.startswith("ppo"):
            config = dataclasses.replace(config, normalization=exploring_scales(self.task_id))
        if column in ROWS:
            config = dataclasses.replace(config, rows=ROWS[column])
        policy = learn(self.real, config, out=self.folder / column, ledger=ledger)
        return policy_actor(policy), steps

    def twin_steps(self) -> int:
        """What `ppo_twin` learned from, as its row says; where there is none it is made now."""
        wanted = self.of("ppo_twin")
        stored = None if self.results is None else read(self.results)
        for row in (stored or {"rows": []})["rows"]:
            if wanted.items() <= row.items():
                return int(row["learned_steps"])
        ledger = StepLedger(self.folder / "ppo_twin-real-steps.json")
        return self.refine("ppo_twin", ledger)[-1].learned_steps

    def judged(self, done: Round) -> JSON:
        """What a round predicted, and what its policy earns in reality: no step of this is counted, nothing reads it."""
        reality = run_real(
            policy_actor(done.policy), self.real, ROUND_SEEDS, purpose="judge", ledger=StepLedger()
        )
        kept = ("real_steps", "learned_steps", "chosen", "predicted_return", "reality", "seconds")
        log = {name: done.log[name] for name in kept}
        return {"round": done.number} | log | returns_of(reality)


def returns_of(reality: Returns) -> JSON:
    """The numbers of a row that were measured."""
    forward = reality.parts.get("reward_forward")
    return {
        "real_mean": reality.mean,
        "real_ci95": list(reality.ci95()),
        "forward_mean": None if forward is None else float(forward.mean()),
        "length_mean": float(reality.lengths.mean()),
        "episodes": len(reality.values),
    }


if __name__ == "__main__":
    main()
