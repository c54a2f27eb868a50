"""Time of a fit by phase, gradient steps a second, and time until the validation error is below given levels.

    python -m benchmarks.speed.fit_speed --transitions 100000
    python -m benchmarks.speed.fit_speed --change '{"batch_size": 2560}' --levels 0.4 0.35

Real steps are collected once, into WORLD_ENV_RUNS. A change names fields of `FitConfig`; {} is the default fit. Each
run adds one row to the file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import time
import warnings
from contextlib import ExitStack
from pathlib import Path

import torch

import world_env.fitting.fit
from benchmarks.arguments import option, script_parser
from benchmarks.speed.timing import JSON, Watch, append, peak_mb, resident_mb
from training.tasks import real_of
from world_env import collect
from world_env.collection import CollectConfig
from world_env.data import EncodedEpisodes, EpisodeStore
from world_env.fitting import FitConfig, FitWarning, fit_episodes
from world_env.models import load_family
from world_env.policies import ExplorationConfig, HeldExploration
from world_env.provenance import facts

BENCHMARK = "fit_speed"
UPDATE_PARTS = ("windows", "loss", "backward", "clip", "optimizer")


def main() -> None:
    """Collect missing data, fit once, and add the row."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore", FitWarning)
    made = facts()
    exploration = HeldExploration(steps=arguments.held)
    store = transitions(arguments.task, arguments.transitions, exploration, arguments.data_seed)
    config = FitConfig(seed=arguments.seed).updated(arguments.change, where="--change")
    row = {
        "task": arguments.task,
        "transitions": arguments.transitions,
        "exploration": exploration.to_json(),
        "data_seed": arguments.data_seed,
        "seed": config.seed,
        "change": arguments.change,
        "threads": torch.get_num_threads(),
    }
    row |= timed_fit(store, config, arguments.levels)
    append(arguments.out, BENCHMARK, row, made)
    print(json.dumps(row), flush=True)


def transitions(task: str, steps: int, exploration: ExplorationConfig, seed: int) -> EpisodeStore:
    """Real episodes of `steps` steps in total, loaded if they are on disk."""
    actions = hashlib.sha256(json.dumps(exploration.to_json()).encode()).hexdigest()[:8]
    name = f"{task}-{steps}-{actions}-{seed}"
    folder = Path(os.environ.get("WORLD_ENV_RUNS", "runs")) / BENCHMARK / name
    return collect(CollectConfig(real_of(task), folder, steps, exploration, seed))


def timed_fit(store: EpisodeStore, config: FitConfig, levels: list[float]) -> JSON:
    """Measured part of a row: reading, encoding and fitting, without collection."""
    before = resident_mb()
    watch = Watch()
    curve: list[JSON] = []
    parts: JSON = {}
    began = time.perf_counter()

    def progress(done: int, wanted: int, logs: JSON) -> None:
        seconds = round(time.perf_counter() - began, 3)
        score = logs["open_loop"] if math.isfinite(logs["open_loop"]) else None
        curve.append({"updates": done, "seconds": seconds, "open_loop": score})
        # The last call ends the gradient steps; measures of the finished twin are counted separately.
        parts.update(watch.seconds())

    model_class, _ = load_family(config.family)
    with ExitStack() as stack:
        for owner, attribute, name in (
            (EncodedEpisodes, "windows", "windows"),
            (model_class, "loss", "loss"),
            (torch.Tensor, "backward", "backward"),
            (world_env.fitting.fit, "_clip", "clip"),
            (torch.optim.AdamW, "step", "optimizer"),
            (world_env.fitting.fit, "evaluate_open_loop", "validation"),
        ):
            stack.enter_context(watch.of(owner, attribute, name))
        twin = fit_episodes(store.load(), store.spec, config, progress=progress)
    total = time.perf_counter() - began
    first = min(spent.first for spent in watch.spent.values() if spent.first is not None)
    prepared, updated = first - began, curve[-1]["seconds"] - (first - began)
    updating, updates = updated - parts["validation"], curve[-1]["updates"]
    each = {name: 1e3 * parts[name] / updates for name in UPDATE_PARTS}
    each["rest"] = 1e3 * updating / updates - sum(each.values())
    return {
        "updates": updates,
        "batch_size": config.batch_size,
        "parameters": sum(value.numel() for value in twin.model.parameters()),
        "updates_per_second": round(updates / updating, 2),
        "milliseconds_per_update": {name: round(value, 4) for name, value in each.items()},
        "seconds": {
            "prepare": round(prepared, 3),
            "updates": round(updating, 3),
            "validation": round(parts["validation"], 3),
            "finish": round(total - prepared - updated, 3),
            "total": round(total, 3),
        },
        "reached": [{"level": level, "seconds": reached(curve, level)} for level in levels],
        "open_loop": twin.fidelity["loss"]["best_open_loop"],
        "curve": curve,
        "before_mb": before,
        "peak_mb": peak_mb(),
    }


def reached(curve: list[JSON], level: float) -> float | None:
    """Seconds until the open-loop score of the validation split is below `level`; None: never."""
    scores = ((point["seconds"], point["open_loop"]) for point in curve)
    return next((at for at, score in scores if score is not None and score < level), None)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = script_parser(__doc__, BENCHMARK)
    option(parser, "--task", "HalfCheetah-v5", "real environment id")
    option(parser, "--transitions", 100_000, "real steps to fit to")
    option(parser, "--held", 5.0, "mean steps that a random action of the collection is held")
    option(parser, "--data-seed", 0, "seed of the collection")
    option(parser, "--seed", 0, "seed of the fit")
    parser.add_argument(
        "--change", type=json.loads, default={}, help="changed fields of FitConfig as JSON"
    )
    option(
        parser, "--levels", [0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3], "levels of the validation error"
    )
    option(parser, "--threads", 1, "CPU threads; more help only if nothing else runs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
