"""Wall clock of PPO of Stable-Baselines3 in a twin and in the real environment, with the same configuration.

    python -m benchmarks.speed.ppo_speed                                      # an untrained HalfCheetah twin
    python -m benchmarks.speed.ppo_speed --twin runs/cheetah/twin --steps 1000000
    python -m benchmarks.speed.ppo_speed --twin runs/cheetah/twin --to-return 1500 --steps 3000000

Both trainings run `world_env.learn`; real environments are stepped one after another in this process. The time is
split by functions of Stable-Baselines3. With `--to-return`, both train until the real return of the policy reaches a
value (mean of `--episodes`, evaluated every `--check-every` steps without counting the time), at most `--steps`. Each
run adds one row to the file. One thread, because two processes on the same cores slow each other down.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks.arguments import option, script_parser
from benchmarks.speed.timing import JSON, Watch, append, median, peak_mb
from world_env import learn
from world_env.envs import WorldModelSB3VecEnv
from world_env.models.ensemble import EnsembleConfig
from world_env.provenance import facts
from world_env.real import StepLedger, spec_of
from world_env.rl import MANY_ENVS, LearnConfig
from world_env.rollouts import policy_actor, run_real
from world_env.spec import EnvConfig
from world_env.twin import Twin

BENCHMARK = "ppo_speed"
CHECK_SEEDS = 40_000
"""First reset seed of the evaluation episodes of --to-return."""
World = Twin | EnvConfig


def main() -> None:
    """Train in both environments in turn, `--repeats` times, and add one row with the ratio of medians."""
    arguments = parse()
    torch.set_num_threads(1)
    made = facts()
    real = EnvConfig(arguments.task)
    twin = twin_of(arguments)
    config = config_of(arguments)
    trainings: list[JSON] = []
    for seed in range(arguments.seed, arguments.seed + arguments.repeats):
        config = config.replace(seed=seed)
        worlds: dict[str, World] = {"twin": twin, "real": real}
        for name, world in worlds.items():
            training = {"world": name, "seed": seed} | (
                same_steps(world, config)
                if arguments.to_return is None
                else to_return(world, config, real, arguments)
            )
            trainings.append(training)
            print(json.dumps(training), flush=True)
    row = {
        "task": arguments.task,
        "twin": "untrained" if arguments.twin is None else arguments.twin.name,
        "model": dataclasses.asdict(twin.model.config),
        "threads": torch.get_num_threads(),
        "rows_together": arguments.rows,
        "batch_size": arguments.batch_size,
        "n_steps": config.algo_kwargs["n_steps"],
        "n_epochs": config.algo_kwargs["n_epochs"],
        "on_uncertain": "ignore"
        if twin.uncertainty_threshold is None
        else config.simulation.on_uncertain,
        "to_return": arguments.to_return,
        "ratio": ratio(trainings),
        "peak_mb": peak_mb(),
        "trainings": trainings,
    }
    append(arguments.out, BENCHMARK, row, made)
    print(f"training time, real environment / twin: {row['ratio']}", flush=True)


def twin_of(arguments: argparse.Namespace) -> Twin:
    """The given twin, or an untrained one."""
    if arguments.twin is not None:
        return Twin.load(arguments.twin.resolve())
    spec = spec_of(EnvConfig(arguments.task))
    return Twin.untrained(spec, "ensemble", EnsembleConfig(**arguments.model))


def config_of(arguments: argparse.Namespace) -> LearnConfig:
    """PPO configuration of both trainings."""
    options = {
        "n_steps": -(-arguments.rollout // arguments.rows),
        "batch_size": arguments.batch_size,
        "n_epochs": arguments.epochs,
    }
    return LearnConfig(
        steps=arguments.steps, num_envs=arguments.rows, seed=arguments.seed, algo_kwargs=options
    )


def ratio(trainings: list[JSON]) -> float | None:
    """Median time in the real environment over that in the twin; None if a return was not reached."""
    seconds = {
        name: [training["seconds"] for training in trainings if training["world"] == name]
        for name in ("twin", "real")
    }
    if not all(training.get("reached", True) for training in trainings):
        return None
    return median([statistics.median(seconds["real"]) / statistics.median(seconds["twin"])])


def same_steps(world: World, config: LearnConfig) -> JSON:
    """One training with its time in seconds, by part.

    environment: steps of all environments. policy: rest of the rollouts (forward passes, buffers, wrappers).
    update: gradient steps of PPO and everything else between two rollouts.
    """
    watch = Watch()
    shell = WorldModelSB3VecEnv if isinstance(world, Twin) else DummyVecEnv
    with ExitStack() as stack:
        stack.enter_context(watch.of(OnPolicyAlgorithm, "learn", "learn"))
        stack.enter_context(watch.of(OnPolicyAlgorithm, "collect_rollouts", "rollout"))
        stack.enter_context(watch.of(shell, "step_wait", "environment"))
        model = learn(world, config, ledger=StepLedger())
    spent = watch.seconds()
    return {
        "steps": model.num_timesteps,
        "seconds": round(spent["learn"], 3),
        "steps_per_second": median([model.num_timesteps / spent["learn"]]),
        "environment_seconds": round(spent["environment"], 3),
        "policy_seconds": round(spent["rollout"] - spent["environment"], 3),
        "update_seconds": round(spent["learn"] - spent["rollout"], 3),
    }


class _Reached(Exception):
    """Raised to end a training that reached its return."""


def to_return(
    world: World, config: LearnConfig, real: EnvConfig, arguments: argparse.Namespace
) -> JSON:
    """One training until the real return is reached. Evaluation steps are not trained on."""
    seeds = range(CHECK_SEEDS, CHECK_SEEDS + arguments.episodes)
    checks: list[JSON] = []
    # The time counts from the first rollout, without evaluations.
    began, checking = 0.0, 0.0

    def look(model: BaseAlgorithm) -> None:
        nonlocal began, checking
        began = began or time.perf_counter()
        due = (len(checks) + 1) * arguments.check_every
        if model.num_timesteps < min(due, config.steps):
            return
        stopped = time.perf_counter()
        actor = policy_actor(model)
        values = run_real(actor, real, seeds, purpose="select", ledger=StepLedger()).values
        checks.append(
            {
                "steps": model.num_timesteps,
                "seconds": round(stopped - began - checking, 3),
                "real_mean": round(float(np.mean(values)), 3),
            }
        )
        checking += time.perf_counter() - stopped
        if checks[-1]["real_mean"] >= arguments.to_return:
            raise _Reached

    with suppress(_Reached):
        learn(world, config, ledger=StepLedger(), callbacks=[_AfterEachUpdate(look)])
    last = checks[-1]
    arrived = last["real_mean"] >= arguments.to_return
    return {
        "reached": arrived,
        "steps": last["steps"],
        "seconds": last["seconds"],
        "checks": checks,
    }


class _AfterEachUpdate(BaseCallback):
    """Call `look` with the algorithm before each rollout and at the end."""

    def __init__(self, look: Callable[[BaseAlgorithm], None]) -> None:
        super().__init__()
        self._look = look

    def _on_rollout_start(self) -> None:
        self._look(self.model)

    def _on_training_end(self) -> None:
        self._look(self.model)

    def _on_step(self) -> bool:
        return True


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = script_parser(__doc__, BENCHMARK)
    option(parser, "--task", "HalfCheetah-v5", "real environment id")
    parser.add_argument("--twin", type=Path, help="folder of a twin (default: an untrained twin)")
    parser.add_argument(
        "--model",
        type=json.loads,
        default={},
        help="fields of EnsembleConfig of the untrained twin as JSON",
    )
    option(parser, "--steps", 327_680, "training steps")
    option(parser, "--rows", 512, "environments stepped together")
    option(parser, "--rollout", 16_384, "steps of a rollout, all environments")
    option(parser, "--batch-size", 2048, "batch size of PPO")
    option(parser, "--epochs", MANY_ENVS["n_epochs"], "epochs of PPO a rollout")
    option(parser, "--seed", 0, "first seed")
    option(parser, "--repeats", 3, "number of seeds")
    parser.add_argument(
        "--to-return",
        type=float,
        help="real return that ends a training (default: train all --steps)",
    )
    option(parser, "--check-every", 65_536, "steps between evaluations of --to-return")
    option(parser, "--episodes", 10, "episodes of an evaluation of --to-return")
    return parser.parse_args()


if __name__ == "__main__":
    main()
