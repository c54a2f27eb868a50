"""Detections of the exploitation alarm in sabotaged twins, and false alarms in sound ones.

    python -m benchmarks.diagnostics.alarm --tuning                   # seeds and sabotages of the limits
    python -m benchmarks.diagnostics.alarm --seeds 0 1 2 --resume     # evaluation

For each task and seed, real episodes are collected with the recipe of the task, and a twin and a second twin are fitted
to them (once, stored in WORLD_ENV_RUNS). PPO trains in the sound ("none") or sabotaged twin with
`on_uncertain="ignore"`, because other settings keep it from exploiting the twin. The policy is then evaluated in the
real environment.

The limits of `AlarmConfig` were chosen on the sabotages and seeds of `--tuning` alone, before the evaluation:
above the measures of sound twins and below those of exploited twins. Rows hold the extremes of all measures.
"noisy reward" and "deaf" cannot be exploited. "late ends" has no effect without terminations; "no deaths" is measured
on CartPole only.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from pathlib import Path

import torch

from benchmarks.arguments import script_parser
from benchmarks.diagnostics.sabotages import JUDGED, TUNING, sabotaged
from benchmarks.returns.returns import merge, read
from training.tasks import TASKS, real_of, refine_task
from world_env import collect, learn
from world_env.collection import CollectConfig
from world_env.fitting import FitConfig, FitWarning, fit_episodes
from world_env.policy_evaluation import AlarmConfig, ExploitationAlarm, ExploitationWarning
from world_env.provenance import facts
from world_env.real import StepLedger
from world_env.rl import LearnConfig, TwinTrainingConfig
from world_env.rollouts import policy_actor, run_learned, run_real
from world_env.twin import Twin
from world_env.types import JSON

BENCHMARK = "alarm"
CELLS = ("CartPole-v1", "Pendulum-v1")
TUNING_SEEDS = (100, 101, 102)
STEPS = 100_000
"""Training steps of a policy, enough for both tasks."""
EVERY = 25_000
REAL_EVALUATIONS, REAL_EPISODES = 2, 4
EPISODES = 100
EVALUATION_SEEDS, SELECT_SEEDS = range(20_000, 20_000 + EPISODES), range(30_000, 30_000 + EPISODES)
_SECOND_TWIN_SEED = 1_000
"""Difference between the fit seeds of a twin and of its second twin."""


def main() -> None:
    """Run the missing cells and write the file after each."""
    parser = script_parser(
        __doc__, BENCHMARK, tasks=CELLS, seeds=range(3), seed_choices=range(10), resume=True
    )
    parser.add_argument(
        "--tuning",
        action="store_true",
        help="measure the seeds and sabotages that the limits were chosen on",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FitWarning)
    warnings.simplefilter("ignore", ExploitationWarning)
    names = ("none", *(TUNING if arguments.tuning else JUDGED))
    keep = arguments.resume
    for seed in TUNING_SEEDS if arguments.tuning else arguments.seeds:
        for task in arguments.tasks:
            for name in names:
                cell = {"task": task, "sabotage": name, "seed": seed, "tuning": arguments.tuning}
                stored = (read(arguments.out) if keep else None) or {"rows": []}
                if any(cell.items() <= row.items() for row in stored["rows"]):
                    continue
                if name == "no deaths" and task == "Pendulum-v1":
                    continue
                row = cell | run_cell(task, seed, name, tuning=arguments.tuning)
                merge(arguments.out, BENCHMARK, {"rows": [row]}, keep=keep)
                keep = True
                print(json.dumps(row), flush=True)


def run_cell(task: str, seed: int, sabotage: str, *, tuning: bool) -> JSON:
    """Rest of one row: signals of the alarm during training, learned and real return of the policy."""
    row, real, ledger = TASKS[task], real_of(task), StepLedger()
    twin, second = twins(task, seed)
    twin = sabotaged(twin, sabotage)
    assert twin.spec.horizon is not None
    config = AlarmConfig(
        every=EVERY,
        real_evaluation_steps=REAL_EVALUATIONS * REAL_EPISODES * twin.spec.horizon,
        real_evaluation_every=STEPS // REAL_EVALUATIONS,
        real_evaluation_episodes=REAL_EPISODES,
        seed=seed,
    )
    alarm = ExploitationAlarm(twin, config, second_twin=second, real=real, ledger=ledger)
    learning = LearnConfig(
        steps=STEPS,
        algo_kwargs=row.algo_kwargs,
        simulation=TwinTrainingConfig(on_uncertain="ignore"),
        seed=seed,
    )
    began = time.perf_counter()
    actor = policy_actor(learn(twin, learning, callbacks=[alarm]))
    seconds = time.perf_counter() - began
    seeds, purpose = (SELECT_SEEDS, "select") if tuning else (EVALUATION_SEEDS, "judge")
    real_returns = run_real(actor, real, seeds, purpose=purpose, ledger=StepLedger())
    learned = run_learned(actor, twin, real_returns.first, seed=seed)
    return {
        "raised": alarm.raised,
        "signals": alarm.signals,
        "at_steps": [first_step(alarm, signal) for signal in alarm.signals],
        "real_mean": real_returns.mean,
        "learned_mean": learned.mean,
        "real_evaluation_steps": ledger.by_purpose.get("evaluate", 0),
        "extremes": extremes(alarm),
        "seconds": round(seconds, 1),
        "alarm_share": round(alarm.seconds / seconds, 3),
    } | {name: facts()[name] for name in ("commit", "date")}


def twins(task: str, seed: int) -> tuple[Twin, Twin]:
    """A twin of the task's real steps, and a second twin: the same episodes fitted with another seed."""
    folder = Path(os.environ.get("WORLD_ENV_RUNS", "runs")) / BENCHMARK / f"{task}-{seed}"
    row = refine_task(TASKS[task], real_of(task), folder, seed)
    store = collect(
        CollectConfig(row.real, folder / "data", row.steps, row.exploration, seed=seed * 1000)
    )
    made = []
    for name, of_fit in (("twin", seed), ("judge", seed + _SECOND_TWIN_SEED)):
        if not (folder / name / "twin.json").is_file():
            fit_episodes(store.load(), store.spec, FitConfig(seed=of_fit)).save(folder / name)
        made.append(Twin.load((folder / name).resolve()))
    return made[0], made[1]


def first_step(alarm: ExploitationAlarm, signal: str) -> int:
    """Training steps after which a signal was first raised."""
    return min(found["step"] for found in alarm.findings if found["signal"] == signal)


def extremes(alarm: ExploitationAlarm) -> JSON:
    """Largest measure of each signal over all checks; of motion the smallest."""
    checks = alarm.checks
    gaps = [check["real_evaluation_gap"] for check in checks if "real_evaluation_gap" in check]
    return {
        "reward": max(check["learned_odd_rewards"] for check in checks),
        "uncertainty": max(check["learned_uncertain"] for check in checks),
        "frozen": min(check["learned_motion"] / check["second_twin_motion"] for check in checks),
        "second_twin": max(check["second_twin_gap"] for check in checks),
        "real_evaluation": max(gaps) if gaps else None,
    }


if __name__ == "__main__":
    main()
