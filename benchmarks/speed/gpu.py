"""Steps a second of untrained twins and gradient steps a second of fits, on CPU and GPU.

    python -m benchmarks.speed.gpu
    python -m benchmarks.speed.gpu --devices cpu --rows 64 --updates 2      # without a GPU

Steps are those of the simulator with observations as arrays: each step waits for the device. Fits use random episodes;
gradient steps are counted without validation. The CPU uses all its cores.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from gymnasium import spaces

from benchmarks.arguments import option, script_parser
from benchmarks.speed.fit_speed import timed_fit
from benchmarks.speed.stepping import core
from benchmarks.speed.timing import JSON, device_name, median, rate
from world_env.atomic_io import write_json
from world_env.data import Episode, EpisodeStore
from world_env.fitting import FitConfig, FitWarning
from world_env.models.ensemble import EnsembleConfig
from world_env.provenance import facts
from world_env.spec import WorldSpec
from world_env.twin import Twin

BENCHMARK = "gpu"
ROWS = (64, 1024, 16384, 65536)
MAX_IMAGES = 1024
"""Largest number of environments with image observations; more do not fit into memory."""
SPECS = {
    "17 numbers": WorldSpec(
        spaces.Box(-np.inf, np.inf, (17,), np.float64),
        spaces.Box(-1.0, 1.0, (6,), np.float32),
        None,
    ),
    "64x64": WorldSpec(
        spaces.Box(0, 255, (64, 64), np.uint8), spaces.Box(-1.0, 1.0, (1,), np.float32), None
    ),
}
WORLDS = {
    "ensemble": ("17 numbers", ("observation",)),
    "rssm": ("64x64", ("latent", "observation")),
    "rssm-large": ("64x64", ("latent", "observation")),
}
"""Family -> (size, observation modes)."""
NETWORK = EnsembleConfig(members=5, width=200, layers=4)
"""Sizes of the ensemble, as in steps_per_second.py."""
EPISODES, LENGTH = 12, 70
"""Few episodes: all are evaluated at the end of a fit."""


def main() -> None:
    """Time all cases on every device and write the file after each family."""
    arguments = parse()
    warnings.simplefilter("ignore", FitWarning)
    head: JSON = {"benchmark": BENCHMARK} | facts()
    rows: list[JSON] = []
    for device in arguments.devices:
        # With a GPU, the work left for the CPU is fastest on one thread.
        torch.set_num_threads(os.cpu_count() or 1 if device == "cpu" else 1)
        place = {"device": device_name(device), "threads": torch.get_num_threads()}
        for family, (size, modes) in WORLDS.items():
            for number in arguments.rows:
                if size == "17 numbers" or number <= MAX_IMAGES:
                    for mode in modes:
                        row = {"what": "steps", "family": family, "size": size, "mode": mode}
                        speed = stepped(family, size, mode, number, device, arguments.seconds)
                        rows.append(row | {"rows": number} | place | {"per_second": speed})
                        print(rows[-1], flush=True)
            row = {"what": "updates", "family": family, "size": size}
            # A CPU takes seconds for a gradient step of the largest network.
            updates = arguments.updates if device != "cpu" else max(2, arguments.updates // 10)
            speed = fitted(family, size, device, updates)
            rows.append(row | place | {"per_second": speed})
            print(rows[-1], flush=True)
            write_json(arguments.out, head | {"rows": rows})


def stepped(family: str, size: str, mode: str, rows: int, device: str, seconds: float) -> float:
    """Steps a second of all environments together."""
    config = NETWORK if family == "ensemble" else None
    twin = Twin.untrained(SPECS[size], family, config)
    twin.model.to(device)
    step = core(twin, rows, {"uncertainty": False, "observation_mode": mode})
    step()
    return median([rate(step, rows, seconds) for _ in range(3)])


def fitted(family: str, size: str, device: str, updates: int) -> float:
    """Gradient steps a second with the batch size of the family."""
    network = {"members": NETWORK.members, "width": NETWORK.width, "layers": NETWORK.layers}
    model = network if family == "ensemble" else {}
    config = FitConfig(
        family,
        model,
        gradient_steps=updates,
        validate_every=updates,
        max_dataset_states=8,
        device=device,
    )
    with TemporaryDirectory() as folder:
        store = EpisodeStore.create(Path(folder) / "data", SPECS[size])
        store.append(made_up(SPECS[size]))
        # The first gradient steps on a device include its initialisation.
        timed_fit(store, config.replace(gradient_steps=2, validate_every=2), [])
        return float(timed_fit(store, config, [])["updates_per_second"])


def made_up(spec: WorldSpec) -> list[Episode]:
    """Random episodes."""
    rng, observed, action = np.random.default_rng(0), spec.observation_space, spec.action_space
    made = []
    for seed in range(EPISODES):
        noise = rng.uniform(0.0, 255.0, (LENGTH + 1, *(observed.shape or ())))
        actions = rng.uniform(-1.0, 1.0, (LENGTH, *(action.shape or ())))
        rewards = rng.normal(size=LENGTH)
        arrays = (
            noise.astype(observed.dtype),
            actions.astype(action.dtype),
            rewards.astype(np.float32),
        )
        made.append(Episode(*arrays, terminated=False, truncated=True, seed=seed))
    return made


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = script_parser(__doc__, BENCHMARK)
    option(parser, "--devices", ["cpu", "cuda"], "devices")
    option(parser, "--rows", ROWS, "numbers of environments")
    option(parser, "--seconds", 0.5, "duration of each of three measurements")
    option(parser, "--updates", 50, "gradient steps of a fit; a tenth on the CPU")
    return parser.parse_args()


if __name__ == "__main__":
    main()
