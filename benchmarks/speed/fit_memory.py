"""Peak memory of a fit to synthetic transitions, beside the memory of the transitions.

    python -m benchmarks.speed.fit_memory --steps 500000 --size 50

The fit takes a few gradient steps only: its peak is the preparation and the evaluation of the data. Each run prints one
line of JSON; equal fingerprints are equal twins.
"""

from __future__ import annotations

import json
import time
import warnings

import numpy as np
import torch
from gymnasium import spaces

from benchmarks.arguments import option, script_parser
from benchmarks.speed.timing import peak_mb, resident_mb
from world_env import WorldSpec
from world_env.data import Episode
from world_env.fitting import FitConfig, FitWarning, fit_episodes


def main() -> None:
    """Make episodes, fit once, and print the memory."""
    parser = script_parser(__doc__)
    option(parser, "--steps", 500_000, "transitions")
    option(parser, "--size", 50, "numbers of an observation")
    option(parser, "--episodes", 500, "episodes; fewer than 10 are split into blocks")
    option(parser, "--family", "ensemble", "model family")
    option(parser, "--gradient-steps", 20, "gradient steps")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FitWarning)
    before = resident_mb()
    episodes = made_up(arguments.episodes, arguments.steps // arguments.episodes, arguments.size)
    spec = WorldSpec(
        observation_space=spaces.Box(-np.inf, np.inf, (arguments.size,), np.float32),
        action_space=spaces.Box(-1.0, 1.0, (6,), np.float32),
        horizon=arguments.steps,
    )
    data, began = resident_mb(), time.perf_counter()
    config = FitConfig(
        family=arguments.family,
        gradient_steps=arguments.gradient_steps,
        allow_errors=True,  # random numbers, which are no data of an environment
    )
    twin = fit_episodes(episodes, spec, config)
    row = {
        "steps": arguments.steps,
        "size": arguments.size,
        "episodes": arguments.episodes,
        "family": arguments.family,
        "data_mb": round(data - before),
        "peak_above_data_mb": round(peak_mb() - data),
        "seconds": round(time.perf_counter() - began, 1),
        "twin": twin.fingerprint(),
    }
    print(json.dumps(row), flush=True)


def made_up(episodes: int, length: int, size: int) -> list[Episode]:
    """Random walks with one pair of unit vectors, one rare outlier, and a termination in every third episode."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(episodes):
        walk = rng.normal(size=(length + 1, size)).astype(np.float32).cumsum(0) * np.float32(0.1)
        walk[:, 1], walk[:, 2] = np.cos(walk[:, 0]), np.sin(walk[:, 0])
        walk[:, 3] *= rng.random(length + 1) > 0.999
        made.append(
            Episode(
                walk,
                rng.uniform(-1, 1, (length, 6)).astype(np.float32),
                walk[1:, 0].copy(),
                terminated=number % 3 == 0,
                truncated=number % 3 != 0,
            )
        )
    return made


if __name__ == "__main__":
    main()
