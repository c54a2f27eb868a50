"""Whether the alarm notices sabotaged twins, and keeps quiet in sound ones.

    python -m benchmarks.diagnostics.alarm --tuning                         the limits' origin: seeds 100 to 102
    python -m benchmarks.diagnostics.alarm --seeds 0 1 2 --resume           the judged cells

For each task and seed real episodes are collected as in `training/tasks.py`, and a twin and its judge fitted to them
(once, kept in WORLD_ENV_RUNS). PPO trains in the twin, sound ("none") or sabotaged, with nothing that guards it
(`on_uncertain="ignore"`): guards would keep it from what the alarm has to notice. The policy is then judged in reality.

The limits of `AlarmConfig` were chosen on the sabotages and seeds of --tuning alone, before one of the judged ones was
run: each lies well above what sound twins showed there and below what the sabotages showed whose learned returns
reality did not pay. The rows keep the extremes of all measures. "noisy reward" and "deaf" cannot be exploited, "late
ends" changes nothing where nothing ends; for the same reason "no deaths" is judged on CartPole alone.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from pathlib import Path

import torch

from benchmarks.diagnostics.sabotages import JUDGED, TUNING, sabotaged
from benchmarks.returns.returns import merge, read
from training.tasks import TASKS, real_of, refine_task
from world_env import collect, learn
from world_env.collection import CollectConfig
from world_env.fitting import FitConfig, FitWarning, fit_episodes
from world_env.policy_evaluation import AlarmConfig, ExploitationAlarm, ExploitationWarning
from world_env.provenance import facts
from world_env.real import StepLedger
from world_env.rl import LearnConfig
from world_env.rollouts import policy_actor, run_learned, run_real
from world_env.twin import Twin
from world_env.types import JSON

BENCHMARK = "alarm"
CELLS = ("CartPole-v1", "Pendulum-v1")
TUNING_SEEDS = (100, 101, 102)
STEPS = 100_000
"""Learned steps of a policy: in both tasks enough to learn them."""
EVERY = 25_000
SPOT_CHECKS, SPOT_EPISODES = 2, 4
EPISODES = 100
JUDGE_SEEDS, SELECT_SEEDS = range(20_000, 20_000 + EPISODES), range(30_000, 30_000 + EPISODES)
_ANOTHER = 1_000
"""Between the seeds of a twin's fit and of its judge's."""


def main() -> None:
    """Run the missing cells and write the file after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], choices=range(10))
    parser.add_argument("--tuning", action="store_true", help="the tuning seeds and sabotages")
    parser.add_argument("--out", type=Path, default=Path(f"benchmarks/results/{BENCHMARK}.json"))
    parser.add_argument(
        "--resume", action="store_true", help="keep the cells that the file already holds"
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
    """The rest of one row: what the alarm said while a policy trained, and what the policy earns in both worlds."""
    row, real, ledger = TASKS[task], real_of(task), StepLedger()
    twin, judge = twins(task, seed)
    twin = sabotaged(twin, sabotage)
    assert twin.spec.horizon is not None
    config = AlarmConfig(
        every=EVERY,
        spot_check_steps=SPOT_CHECKS * SPOT_EPISODES * twin.spec.horizon,
        spot_check_every=STEPS // SPOT_CHECKS,
        spot_check_episodes=SPOT_EPISODES,
        seed=seed,
    )
    alarm = ExploitationAlarm(twin, config, judge=judge, real=real, ledger=ledger)
    learning = LearnConfig(steps=STEPS, options=row.options, on_uncertain="ignore", seed=seed)
    began = time.perf_counter()
    actor = policy_actor(learn(twin, learning, callbacks=[alarm]))
    seconds = time.perf_counter() - began
    seeds, purpose = (SELECT_SEEDS, "select") if tuning else (JUDGE_SEEDS, "judge")
    reality = run_real(actor, real, seeds, purpose=purpose, ledger=StepLedger())
    learned = run_learned(actor, twin, reality.first, seed=seed)
    return {
        "raised": alarm.raised,
        "signals": alarm.signals,
        "at_steps": [first_step(alarm, signal) for signal in alarm.signals],
        "real_mean": reality.mean,
        "learned_mean": learned.mean,
        "real_steps_spot_check": ledger.by_purpose.get("spot_check", 0),
        "extremes": extremes(alarm),
        "seconds": round(seconds, 1),
        "alarm_share": round(alarm.seconds / seconds, 3),
    } | {name: facts()[name] for name in ("commit", "date")}


def twins(task: str, seed: int) -> tuple[Twin, Twin]:
    """A twin of the task's real steps, and a judge: the same episodes fitted with another seed."""
    folder = Path(os.environ.get("WORLD_ENV_RUNS", "runs")) / BENCHMARK / f"{task}-{seed}"
    row = refine_task(TASKS[task], real_of(task), folder, seed)
    store = collect(
        CollectConfig(row.real, folder / "data", row.steps, row.exploration, seed=seed * 1000)
    )
    made = []
    for name, of_fit in (("twin", seed), ("judge", seed + _ANOTHER)):
        if not (folder / name / "twin.json").is_file():
            fit_episodes(store.load(), store.spec, FitConfig(seed=of_fit)).save(folder / name)
        made.append(Twin.load((folder / name).resolve()))
    return made[0], made[1]


def first_step(alarm: ExploitationAlarm, signal: str) -> int:
    """Learned steps after which a signal first fired."""
    return min(found["step"] for found in alarm.findings if found["signal"] == signal)


def extremes(alarm: ExploitationAlarm) -> JSON:
    """The most that each signal's measure came to at any check; of motion the least."""
    checks = alarm.checks
    spots = [check["spot_check_gap"] for check in checks if "spot_check_gap" in check]
    return {
        "reward": max(check["learned_odd_rewards"] for check in checks),
        "uncertainty": max(check["learned_uncertain"] for check in checks),
        "frozen": min(check["learned_motion"] / check["judge_motion"] for check in checks),
        "judge": max(check["judge_gap"] for check in checks),
        "spot_check": max(spots) if spots else None,
    }


if __name__ == "__main__":
    main()
