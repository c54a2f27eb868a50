"""Open-loop errors of families of world models after 1 to 200 steps, fitted to the same real steps.

    python -m benchmarks.families.families --seeds 0 1 2 --resume
    python -m benchmarks.families.families --worlds "Pendulum-v1 without velocity" --families rssm --seeds 0 --resume
    python -m benchmarks.families.families --worlds Pendulum-v1-pixels --families rssm-large --device cuda --resume

Each family is fitted to the same episodes with the default configuration (pixel task: that of its recipe) and rolled
out along other episodes of the same policy. Its state is inferred from as many real observations as it supports
(`WorldModel.context`); after these it gets actions only. Errors are root mean squares in standard deviations of the
data, compared with the last observation repeated (hold-last). Energy scores compare two draws of the model with the
real outcome: squared errors favour the mean of possible futures, energy scores do not.
"""

from __future__ import annotations

import os
import time
import warnings
from functools import partial
from pathlib import Path

import torch

from benchmarks.arguments import option, script_parser
from benchmarks.families.families_table import FAMILIES, WORLDS
from benchmarks.returns.returns import add_missing
from benchmarks.speed.timing import device_name
from training.tasks import TASKS, real_of
from world_env import collect
from world_env.collection import CollectConfig
from world_env.data import EpisodeStore, encode_episodes
from world_env.fitting import FitConfig, FitWarning, fit_episodes, gradient_steps_for
from world_env.model_evaluation import evaluate_open_loop, scales_of
from world_env.policies import random_and_held
from world_env.real import Purpose, StepLedger
from world_env.spec import EnvConfig, WrapperConfig
from world_env.types import JSON

BENCHMARK = "families"
EXPLORATION = random_and_held(5)
NO_VELOCITY = WrapperConfig("world_env.wrappers:SelectColumns", {"columns": [0, 1]})
TEST_STEPS, TEST_LIMIT = 6_000, 300
"""Real steps and episode length; longer than the task's, to allow 200 open-loop steps from any step."""
TEST_SEEDS = 40_000
"""Added to the seed of a row: seeds of the test episodes."""
STEPS = (1, 5, 10, 20, 50, 100, 200)


def real_world(world: str, **kwargs: int) -> EnvConfig:
    """Real environment of a row, with more arguments."""
    hidden = world.endswith(" without velocity")
    real = real_of(world.removesuffix(" without velocity"), kwargs)
    return real.replace(wrappers=(NO_VELOCITY,)) if hidden else real


def main() -> None:
    """Run the missing rows and write the file after each."""
    parser = script_parser(__doc__, BENCHMARK, seeds=range(3), resume=True)
    option(parser, "--worlds", WORLDS, "environments to measure (default: all)", WORLDS)
    option(parser, "--families", ["ensemble", "rssm"], "families to fit", FAMILIES)
    parser.add_argument(
        "--gradient-steps",
        type=int,
        help="gradient steps of a fit (default: those of the recipe or of FitConfig)",
    )
    option(parser, "--device", "cpu", "device of the fits")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FitWarning)
    if not arguments.resume:
        arguments.out.unlink(missing_ok=True)
    for world in arguments.worlds:
        for seed in arguments.seeds:
            for family in [name for name in arguments.families if name in WORLDS[world]]:
                steps = arguments.gradient_steps or usual_steps(world)
                key = {"task": world, "family": family, "seed": seed, "gradient_steps": steps}
                measure = partial(measured, world, family, seed, steps, arguments.device)
                add_missing(arguments.out, BENCHMARK, key, measure)


def usual_steps(world: str) -> int:
    """Gradient steps of the recipe, or the default for as many real steps."""
    task = TASKS[world.removesuffix(" without velocity")]
    return task.gradient_steps or gradient_steps_for(task.real_steps)


def measured(world: str, family: str, seed: int, gradient_steps: int, device: str = "cpu") -> JSON:
    """Rest of one row."""
    task = TASKS[world.removesuffix(" without velocity")]
    store = episodes_of(world, real_world(world), task.real_steps, seed, "collect")
    longer = real_world(world, max_episode_steps=TEST_LIMIT)
    test = episodes_of(world, longer, TEST_STEPS, TEST_SEEDS + seed, "judge")
    train = store.load()
    model = task.model if family == task.family else {}
    began = time.perf_counter()
    config = FitConfig(family, model, gradient_steps, seed=seed, device=device)
    twin = fit_episodes(train, store.spec, config)
    seconds = round(time.perf_counter() - began)
    scale = scales_of(encode_episodes(train, twin.codec))
    data = encode_episodes(test.load(), twin.codec)
    curve = evaluate_open_loop(twin.model, data, horizon=STEPS[-1], scale=scale, energies=True)
    names = ("error", "hold_last", "energy", "hold_energy")
    return {
        "real_steps": store.steps,
        "exploration": EXPLORATION.to_json(),
        "model": model,
        "parameters": sum(value.numel() for value in twin.model.parameters()),
        "score": curve.score,
        "reward_error": curve.reward_error,
        "errors": [
            {"step": step} | {name: getattr(curve, name)[step - 1] for name in names}
            for step in STEPS
        ],
        "windows": curve.rows,
        "seconds": seconds,
        "device": device_name(device),
    }


def episodes_of(
    world: str, real: EnvConfig, steps: int, seed: int, purpose: Purpose
) -> EpisodeStore:
    """Real episodes of an environment, stored for all families."""
    runs = Path(os.environ.get("WORLD_ENV_RUNS", "runs")) / BENCHMARK
    folder = runs / f"{world.replace(' ', '-')}-{seed}"
    config = CollectConfig(real, folder, steps, EXPLORATION, seed, purpose=purpose)
    return collect(config, ledger=StepLedger())


if __name__ == "__main__":
    main()
