"""Twins of environments whose observation is one category: FrozenLake, CliffWalking and Taxi.

    python -m benchmarks.returns.toy_text                                       # three worlds, three seeds
    python -m benchmarks.returns.toy_text --tasks FrozenLake-v1 --seeds 0 --resume

A cell is one `build` with its settings for the world in `WORLDS`. Its row holds the real return of the policy that was
trained in the twin, and the learned and the real return of the optimal policy, which is computed from the table of
transitions that these environments publish. The optimal policy trains nowhere.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from benchmarks.arguments import script_parser
from benchmarks.returns.returns import read
from world_env import BuildConfig, EnvConfig, build, compare
from world_env.atomic_io import write_json
from world_env.real import StepLedger
from world_env.results import PolicyComparison, facts
from world_env.twin import Twin
from world_env.types import JSON

BENCHMARK = "toy_text"
_JUDGE_EPISODES = 1_000
"""Real episodes of each policy: with 100, the mean return of FrozenLake has a standard deviation of .045."""
_OPTIMAL_EPISODES = 10_000
"""Episodes of the optimal policy. They are no part of the build, and their steps are counted apart."""
_OPTIMAL_SEED = 50_000
_DISCOUNT = 0.999
"""Discount of the optimal policy: just below 1, so that shorter ways are better where the reward is one at the goal."""


@dataclass(frozen=True)
class World:
    """One world of the benchmark.

    steps: real steps of the data. horizon: time limit in steps; None: the registered one.
    """

    steps: int
    horizon: int | None = None


WORLDS = {
    "FrozenLake-v1": World(steps=20_000),
    "CliffWalking-v1": World(steps=10_000, horizon=200),
    "Taxi-v4": World(steps=50_000),
}


def main() -> None:
    """Run the cells and keep their rows."""
    parser = script_parser(__doc__, BENCHMARK, tasks=WORLDS, seeds=range(3), resume=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stored = read(arguments.out) if arguments.resume else None
    rows = list((stored or {"rows": []})["rows"])
    done = {(row["task"], row["seed"]) for row in rows}
    for task in arguments.tasks:
        for seed in arguments.seeds:
            if (task, seed) in done:
                continue
            rows.append(row_of(task, seed))
            print(rows[-1], flush=True)
            write_json(arguments.out, {"benchmark": BENCHMARK} | facts().to_json() | {"rows": rows})


def row_of(task: str, seed: int) -> JSON:
    """One row: a build, and the optimal policy in its twin and in the real environment."""
    world = WORLDS[task]
    real = EnvConfig(task, horizon=world.horizon)
    runs = Path(os.environ.get("WORLD_ENV_RUNS", "runs"))
    folder = runs / BENCHMARK / f"{task}-{seed}"
    built = build(
        BuildConfig(
            real,
            folder,
            steps=world.steps,
            judge_episodes=_JUDGE_EPISODES,
            baseline=False,
            seed=seed,
        )
    )
    policies = {row.policy: row for row in built.comparison.rows}
    optimal = _optimal(real, built.twin_folder)
    made = facts()
    return {
        "task": task,
        "seed": seed,
        "steps": world.steps,
        "rounds": len(built.rounds),
        "real_steps_by_purpose": built.comparison.real_steps_by_purpose,
        "policy": _returns(policies["ppo_twin"]),
        "random": _returns(policies["random"]),
        "optimal": _returns(optimal),
        "seconds": dict(built.seconds)["all"],
        "commit": made.commit,
        "date": made.date,
    }


def optimal_actions(env_id: str) -> np.ndarray:
    """Optimal action of each state, by value iteration on the environment's table of transitions."""
    env: Any = gym.make(env_id).unwrapped
    states, actions = env.observation_space.n, env.action_space.n
    outcomes = max(len(env.P[s][a]) for s in range(states) for a in range(actions))
    table = np.zeros((states, actions, outcomes, 4))
    for state in range(states):
        for action in range(actions):
            found = env.P[state][action]
            table[state, action, : len(found)] = found
    probability, reward, ended = table[..., 0], table[..., 2], table[..., 3]
    successor = table[..., 1].astype(int)
    value = np.zeros(states)
    for _ in range(3_000):
        quality = (probability * (reward + _DISCOUNT * value[successor] * (1.0 - ended))).sum(-1)
        value = quality.max(1)
    return quality.argmax(1)


def _optimal(real: EnvConfig, twin: Path) -> PolicyComparison:
    actions = optimal_actions(real.env_id)
    found = compare(
        Twin.load(twin),
        {"optimal": lambda observations: actions[observations]},
        real=real,
        ledger=StepLedger(),
        episodes=_OPTIMAL_EPISODES,
        seed=_OPTIMAL_SEED,
        purpose="evaluate",
    )
    return found.rows[0]


def _returns(row: PolicyComparison) -> JSON:
    return {
        "real_mean": row.real_mean,
        "real_ci95": row.real_ci95,
        "learned_mean": row.learned_mean,
        "learned_ci95": row.learned_ci95,
    }


if __name__ == "__main__":
    main()
