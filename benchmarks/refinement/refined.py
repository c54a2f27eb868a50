"""Real return of policies trained only in twins with repeated data collection, compared with baselines.

    python -m benchmarks.refinement.refined --tasks Hopper-v5 HalfCheetah-v5 --seeds 0 1 2 --resume
    python -m benchmarks.refinement.refined --tasks Hopper-v5 --seeds 0 --columns ppo_real_long --resume
    python -m benchmarks.refinement.refined --tasks Hopper-v5 --seeds 102 --change '{"rounds": 5}' --resume
    python -m benchmarks.refinement.refined --tasks Hopper-v5 --seeds 103 --columns ppo_twin --arms "2 members" --resume

A row is one policy of one task and seed, evaluated once at the end on the same 100 reset seeds. `rounds` hold the
predicted return of every round (at most ten) and the real return of its policy, measured at the end and not used.
Columns:

    ppo_twin              PPO trained only in the twin, with the recipe of the task (training/tasks.py)
    ppo_twin_known        the same, with the task's true termination function instead of a learned one
    sac_twin              SAC trained only in the twin, in truncated rollouts
    sac_twin_known        the same, with the true termination function
    ppo_real_twin_steps   PPO with the same configuration in the real environment, with the steps of `ppo_twin`
    ppo_real_long         PPO with the default configuration in the real environment, 1,000,000 steps (baseline)
    ppo_real_long_few     the same in 8 environments (baseline)
    ppo_real_same_steps   PPO in the real environment, as many steps as the twin was fitted to
    sac_real_same_steps   SAC in the real environment, as many
    random                not trained

Policies in the real environment are normalised by the scales of 5,000 exploration steps, which count; policies in a
twin by those of its data. `forward_mean` is the return of the forward reward alone, if the environment reports it.
Seeds 100 to 109 are for tuning.
"""

from __future__ import annotations

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

from benchmarks.arguments import script_parser
from benchmarks.learning.learn_table import exploring_scales
from benchmarks.refinement.refined_arms import ARMS
from benchmarks.refinement.refined_table import applies
from benchmarks.returns.returns import EVALUATION_SEEDS, merge, read
from training.tasks import TASKS, Task, real_of, refine_task
from world_env import learn, refine
from world_env.fitting import FitWarning
from world_env.policies import RandomPolicy
from world_env.real import StepLedger, spec_of
from world_env.refinement import RefineConfig, Round
from world_env.results import facts
from world_env.rl import LearnConfig, RealTrainingConfig
from world_env.rollouts import Returns, run_real
from world_env.twin import KnownFunction
from world_env.types import JSON

BENCHMARK = "refined"
LONG = 1_000_000
"""Real steps of the baselines; tasks with as many `many_steps` can be measured."""
ROUND_SEEDS = EVALUATION_SEEDS[:20]
"""Reset seeds of the evaluation of every round."""
EVALUATED_ROUNDS = 10
EXPLORING = 5_000
TASKS_BY_DEFAULT = ("Hopper-v5", "HalfCheetah-v5")
TWINS = ("ppo_twin", "ppo_twin_known", "sac_twin", "sac_twin_known")
NUM_ENVS = {"ppo_real_same_steps": 1, "ppo_real_long_few": 8}
"""Numbers of environments of PPO that differ from those in a twin."""
IN_REALITY = ("algo", "num_envs", "algo_kwargs", "normalize_rewards")
"""Fields of LearnConfig that apply to baselines in the real environment; their steps are their own."""
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
    tasks = [name for name, task in TASKS.items() if task.many_steps >= LONG]
    parser = script_parser(
        __doc__, BENCHMARK, tasks=tasks, default_tasks=TASKS_BY_DEFAULT, seeds=range(3), resume=True
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        metavar="COLUMN",
        default=list(COLUMNS),
        choices=COLUMNS,
        help="columns to measure, as above (default: all)",
    )
    parser.add_argument(
        "--change",
        type=json.loads,
        default={},
        help='changed fields of RefineConfig as JSON; "fit", "learn" (also of baselines), "model" hold their fields',
    )
    parser.add_argument(
        "--arms",
        nargs="+",
        metavar="ARM",
        choices=ARMS,
        help=f"named changes, measured one by one: {'; '.join(ARMS)}".replace("%", "%%"),
    )
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
    """The configuration with changed fields; "fit", "learn" and "model" (of the fit) hold fields of theirs."""
    fields = dict(change)
    if "model" in fields:
        fields["fit"] = fields.get("fit", {}) | {"model": fields.pop("model")}
    return config.updated(fields, where="change")


def _slug(change: JSON) -> str:
    """Folder name of a change."""
    return hashlib.sha256(json.dumps(change, sort_keys=True).encode()).hexdigest()[:8]


def function_of(name: str) -> KnownFunction:
    """Function with the name "module:function"."""
    module, _, function = name.partition(":")
    found: KnownFunction = getattr(importlib.import_module(module), function)
    return found


class Cell:
    """All columns of one task, seed and change, in one folder.

    results: the results file with stored rows; None: none.
    """

    def __init__(self, task_id: str, seed: int, change: JSON, results: Path | None = None) -> None:
        self.results = results
        self.task_id, self.seed, self.change = task_id, seed, change
        self.task: Task = TASKS[task_id]
        self.real = real_of(task_id)
        name = "-".join([task_id, str(seed), *([_slug(change)] if change else [])])
        self.folder = Path(os.environ.get("WORLD_ENV_RUNS", "runs")) / BENCHMARK / name

    def of(self, column: str) -> JSON:
        """Fields that identify a row."""
        change = self.change
        if "twin" not in column:
            learning = change.get("learn", {}) if column != "random" else {}
            learning = {name: value for name, value in learning.items() if name in IN_REALITY}
            change = {"learn": learning} if learning else {}
        return {"task": self.task_id, "seed": self.seed, "policy": column, "change": change}

    def run(self, column: str) -> JSON:
        """{"rows", "rounds"} of one column; an interrupted run is resumed."""
        began = time.perf_counter()
        ledger = StepLedger(self.folder / f"{column}-real-steps.json")
        found: list[Round] = []
        if column == "random":
            policy, steps = RandomPolicy(spec_of(self.real).action_space), 0
        elif column in TWINS:
            found = self.refine(column, ledger)
            policy, steps = found[-1].policy, found[-1].learned_steps
        else:
            policy, steps = self.control(column, ledger)
        seconds = time.perf_counter() - began
        real_returns = run_real(policy, self.real, EVALUATION_SEEDS, purpose="judge", ledger=ledger)
        made = {name: facts().to_json()[name] for name in ("commit", "date")}
        row = self.of(column) | {"learned_steps": steps} | returns_of(real_returns)
        counted = Counter(ledger.by_purpose)
        if column.startswith("ppo_real"):
            counted["collect"] += EXPLORING  # of other runs
        row |= {"real_steps": counted.total() - counted["judge"], "real_steps_by_purpose": counted}
        row |= {
            "predicted_return": found[-1].log.to_json()["predicted_return"] if found else None,
            "seconds": round(seconds, 1),
        }
        every = max(1, len(found) // EVALUATED_ROUNDS)
        kept = range(len(found) - 1, -1, -every)[::-1]
        rounds = [self.of(column) | self.evaluated_round(found[number]) | made for number in kept]
        return {"rows": [row | made], "rounds": rounds}

    def refine(self, column: str, ledger: StepLedger) -> list[Round]:
        """The rounds of a column; finished rounds are loaded."""
        termination = None
        if column.endswith("_known"):
            assert self.task.termination is not None
            termination = function_of(self.task.termination)
        algo = column[:3].upper()
        config = refine_task(self.task, self.real, self.folder / column, self.seed, algo=algo)
        config = changed(config, self.change)
        return refine(config, ledger=ledger, termination_fn=termination)

    def control(self, column: str, ledger: StepLedger) -> tuple[Any, int]:
        """(actor, training steps) of a baseline in the real environment."""
        if column == "ppo_real_twin_steps":
            steps = self.twin_steps()
            same = refine_task(self.task, self.real, self.folder, self.seed, algo="PPO")
            config = changed(same, self.change).learn
        else:
            steps = LONG if "_long" in column else self.task.real_steps
            plain = (
                LearnConfig(algo="SAC")
                if column.startswith("sac")
                else LearnConfig(algo_kwargs=self.task.algo_kwargs)
            )
            learning = self.of(column)["change"].get("learn", {})
            config = plain.replace(seed=self.seed).updated(learning, where="change")
        config = config.replace(steps=steps)
        if column.startswith("ppo"):
            scales = exploring_scales(self.task_id)
            config = config.replace(real=RealTrainingConfig(normalization=scales))
        if column in NUM_ENVS:
            config = config.replace(num_envs=NUM_ENVS[column])
        # As many as in a twin; one is the default in the real environment.
        config = config.replace(num_envs=config.parallel_envs)
        policy = learn(self.real, config, out=self.folder / column, ledger=ledger)
        return policy, steps

    def twin_steps(self) -> int:
        """Training steps of `ppo_twin`, from its row or by training it now."""
        wanted = self.of("ppo_twin")
        stored = None if self.results is None else read(self.results)
        for row in (stored or {"rows": []})["rows"]:
            if wanted.items() <= row.items():
                return int(row["learned_steps"])
        ledger = StepLedger(self.folder / "ppo_twin-real-steps.json")
        return self.refine("ppo_twin", ledger)[-1].learned_steps

    def evaluated_round(self, done: Round) -> JSON:
        """Predicted and real return of a round; these real steps are not counted and nothing uses the result."""
        real_returns = run_real(
            done.policy, self.real, ROUND_SEEDS, purpose="judge", ledger=StepLedger()
        )
        kept = ("real_steps", "learned_steps", "chosen", "predicted_return", "reality", "seconds")
        log = {name: value for name, value in done.log.to_json().items() if name in kept}
        return {"round": done.number} | log | returns_of(real_returns)


def returns_of(real_returns: Returns) -> JSON:
    """Measured numbers of a row."""
    forward = real_returns.parts.get("reward_forward")
    return {
        "real_mean": real_returns.mean,
        "real_ci95": list(real_returns.ci95()),
        "forward_mean": None if forward is None else float(forward.mean()),
        "length_mean": float(real_returns.lengths.mean()),
        "episodes": len(real_returns.values),
    }


if __name__ == "__main__":
    main()
