"""Families of world models on the same real steps: how far are they off after 1, 5, ... steps that they only imagine?

    python -m benchmarks.families.families --seeds 0 1 2 --resume
    python -m benchmarks.families.families --worlds "Pendulum-v1 without velocity" --families rssm --seeds 0 --resume
    python -m benchmarks.families.families --worlds Pendulum-v1-pixels --families rssm-large --device cuda --resume

Each family is fitted, as a fit is by default (the pixel world as its row says), to the same episodes, and rolled out
along others, collected by the same policy with other seeds. Its state is inferred from as many real observations as it
takes (`WorldModel.context`: an ensemble 1, a recurrent model several, where there are so many); then it sees nothing
more. Errors are root mean squares in standard deviations of the data, beside those of "nothing moves" (hold-last), and
energy scores of what a simulator draws (`world_env.model_evaluation.errors.energy_score`): who keeps to one of many ways that things
may be is off by more than who shows the mean of them, and nothing that ever is looks like that mean.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
import warnings
from functools import partial
from pathlib import Path

import torch

from benchmarks.families.families_table import FAMILIES, WORLDS
from benchmarks.returns.returns import add_missing
from benchmarks.speed.timing import device_name
from training.tasks import TASKS, real_of
from world_env import collect
from world_env.collection import CollectConfig
from world_env.data import EpisodeStore, encode_episodes
from world_env.fitting import FitConfig, FitWarning, fit_episodes, updates_for
from world_env.model_evaluation import evaluate_open_loop, scales_of
from world_env.real import StepLedger
from world_env.spec import EnvConfig
from world_env.types import JSON

BENCHMARK = "families"
EXPLORATION = "mix:0.5*random+0.5*held:5"
NO_VELOCITY = 'world_env.wrappers.select_columns:SelectColumns{"columns": [0, 1]}'
TEST_STEPS, TEST_LIMIT = 6_000, 300
"""Real steps, and the length of their episodes: longer than the task's, so that 200 imagined steps begin anywhere."""
TEST_SEEDS = 40_000
"""Added to a row's seed: what the twin is measured on."""
STEPS = (1, 5, 10, 20, 50, 100, 200)


def real_world(world: str, **kwargs: int) -> EnvConfig:
    """The real environment of a row, with more arguments."""
    hidden = world.endswith(" without velocity")
    real = real_of(world.removesuffix(" without velocity"), kwargs)
    return dataclasses.replace(real, wrappers=(NO_VELOCITY,)) if hidden else real


def main() -> None:
    """Run the missing rows and write the file after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument(
        "--families", nargs="+", default=["ensemble", "rssm"], choices=list(FAMILIES)
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--updates", type=int, help="other than a fit's own number")
    parser.add_argument("--device", default="cpu", help="where the fits run")
    parser.add_argument("--out", type=Path, default=Path(f"benchmarks/results/{BENCHMARK}.json"))
    parser.add_argument("--resume", action="store_true", help="keep the rows of the file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FitWarning)
    if not arguments.resume:
        arguments.out.unlink(missing_ok=True)
    for world in arguments.worlds:
        for seed in arguments.seeds:
            for family in [name for name in arguments.families if name in WORLDS[world]]:
                updates = arguments.updates or usual_updates(world)
                key = {"task": world, "family": family, "seed": seed, "updates": updates}
                measure = partial(measured, world, family, seed, updates, arguments.device)
                add_missing(arguments.out, BENCHMARK, key, measure)


def usual_updates(world: str) -> int:
    """Those of the world's row, or of any fit to so much data."""
    task = TASKS[world.removesuffix(" without velocity")]
    return task.updates or updates_for(task.real_steps)


def measured(world: str, family: str, seed: int, updates: int, device: str = "cpu") -> JSON:
    """The rest of one row."""
    task = TASKS[world.removesuffix(" without velocity")]
    store = episodes_of(world, real_world(world), task.real_steps, seed, "collect")
    longer = real_world(world, max_episode_steps=TEST_LIMIT)
    test = episodes_of(world, longer, TEST_STEPS, TEST_SEEDS + seed, "judge")
    train = store.load()
    model = task.model if family == task.family else {}
    began = time.perf_counter()
    config = FitConfig(family, model, updates, seed=seed, device=device)
    twin = fit_episodes(train, store.spec, config)
    seconds = round(time.perf_counter() - began)
    scale = scales_of(encode_episodes(train, twin.codec))
    data = encode_episodes(test.load(), twin.codec)
    curve = evaluate_open_loop(twin.model, data, horizon=STEPS[-1], scale=scale, energies=True)
    names = ("error", "hold_last", "energy", "hold_energy")
    return {
        "real_steps": store.steps,
        "exploration": EXPLORATION,
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


def episodes_of(world: str, real: EnvConfig, steps: int, seed: int, purpose: str) -> EpisodeStore:
    """Real episodes of a world; kept, so that all families get the same."""
    runs = Path(os.environ.get("WORLD_ENV_RUNS", "runs")) / BENCHMARK
    folder = runs / f"{world.replace(' ', '-')}-{seed}"
    config = CollectConfig(real, folder, steps, EXPLORATION, seed, purpose=purpose)
    return collect(config, ledger=StepLedger())


if __name__ == "__main__":
    main()
