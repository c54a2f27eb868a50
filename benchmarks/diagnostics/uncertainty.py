"""AUROC of the uncertainty estimate for steps with large errors, for its default and for costlier kinds.

    python -m benchmarks.diagnostics.uncertainty

For each task a twin is fitted (once, stored in WORLD_ENV_RUNS) and rolled out along episodes of the validation split
from their first observation. A step has a large error above half a standard deviation of the data, or in the worst
tenth. AUROC is the probability that such a step has a larger uncertainty than another step. `gap` is the difference to
"full", all members at every step. `partner_every` evaluates one other member every n-th step, in turn, and averages
(the default); "fixed" the same other member at every step, without average.
"""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.arguments import script_parser
from benchmarks.returns.returns import merge, read
from benchmarks.speed.fit_speed import transitions
from world_env.batch import Batch, Context, Observation
from world_env.data import encode_episodes, split
from world_env.fitting import FitConfig, FitWarning, fit_episodes
from world_env.model_evaluation import auroc, errors_per_row, evaluation_windows, scales_of
from world_env.policies import ExplorationConfig, HeldExploration, RandomExploration
from world_env.provenance import facts
from world_env.rng import CounterRNG
from world_env.twin import Twin
from world_env.types import JSON

BENCHMARK = "uncertainty"
TASKS: dict[str, tuple[int, ExplorationConfig]] = {
    "Pendulum-v1": (3_000, RandomExploration()),
    "Hopper-v5": (30_000, HeldExploration(steps=5)),
    "HalfCheetah-v5": (100_000, HeldExploration(steps=5)),
}
"""Task -> real steps and exploration."""
EVERY = (1, 2, 4, 8)
HORIZON = 200
SEED = 100
"""Seed of data and fit, a tuning seed."""


def main() -> None:
    """Write one row for each task and kind of uncertainty."""
    parser = script_parser(__doc__, BENCHMARK, tasks=TASKS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FitWarning)
    made = {name: facts()[name] for name in ("commit", "date")}
    for task in arguments.tasks:
        stored = read(arguments.out) or {"rows": []}
        if any(row["task"] == task for row in stored["rows"]):
            continue
        rows = [row | made for row in rows_of(task, *prepared(task))]
        merge(arguments.out, BENCHMARK, {"rows": rows}, keep=True)
        for row in rows:
            print(json.dumps(row), flush=True)


@torch.no_grad()
def rows_of(task: str, twin: Twin, batch: Batch, scale: Observation) -> list[JSON]:
    """AUROC of each kind of uncertainty on the same rollouts."""
    model: Any = twin.model
    scores: dict[str, list[torch.Tensor]] = {}
    errors: list[torch.Tensor] = []
    kinds: list[tuple[str, Any, int]] = [("full", "full", 1), ("fixed", "full", 1)]
    kinds += [(f"partner_every {every}", True, every) for every in EVERY]
    for name, kind, every in kinds:
        model.config = dataclasses.replace(model.config, partner_every=every)
        rng = CounterRNG.from_seed(SEED, len(batch))
        start = Context.from_observation(batch.start(), batch.actions.shape[-1])
        state = model.encode(start, rng=rng)
        estimates, errors = [], []
        for step in range(batch.actions.shape[1]):
            left, action = state, batch.actions[:, step]
            state, prediction = model.step(left, action, rng=rng, uncertainty=kind)
            estimate = prediction.uncertainty
            if name == "fixed":
                estimate = (
                    estimate - state["disagreement"].sqrt() + one_partner(model, left, action)
                )
            estimates.append(estimate)
            real = {key: value[:, step + 1] for key, value in batch.observations.items()}
            errors.append(errors_per_row(model.decode(state), real, scale))
        scores[name] = estimates
    valid = batch.valid.T.numpy()
    error = torch.stack(errors).numpy()[valid]
    large = {"auroc_worst_tenth": error > np.quantile(error, 0.9), "auroc_half": error > 0.5}
    rows = []
    for name, estimates in scores.items():
        row: JSON = {"task": task, "seed": SEED, "kind": name, "steps": int(valid.sum())}
        for label, is_large in large.items():
            row[label] = round(auroc(torch.stack(estimates).numpy()[valid], is_large), 4)
            row[label.replace("auroc", "gap")] = round(
                row[label] - (rows[0][label] if rows else row[label]), 4
            )
        rows.append(row)
    return rows


def prepared(task: str) -> tuple[Twin, Batch, Observation]:
    """Twin of a task, windows of its validation split, and the scales of their errors."""
    steps, exploration = TASKS[task]
    store = transitions(task, steps, exploration, SEED)
    folder = Path(os.environ.get("WORLD_ENV_RUNS", "runs")) / BENCHMARK / task
    config = FitConfig(seed=SEED)
    episodes = store.load()
    if not (folder / "twin.json").is_file():
        fit_episodes(episodes, store.spec, config).save(folder)
    twin = Twin.load(folder.resolve())
    _, validation = split(list(episodes), config.validation_fraction, config.seed)
    data = encode_episodes(validation, twin.codec)
    return twin, evaluation_windows(data, HORIZON), scales_of(data)


def one_partner(model: Any, state: Any, action: torch.Tensor) -> torch.Tensor:
    """(B,) disagreement of the member of each batch row with the next member."""
    inputs = torch.cat([model.normalizer.normalize(state["observation"]), action], -1)
    mean, _ = model.dynamics(inputs[None]).chunk(2, -1)
    rows, member = torch.arange(len(action)), state["member"]
    difference = mean[member, rows] - mean[(member + 1) % len(mean), rows]
    return (0.5 * difference.square().mean(-1)).sqrt()


if __name__ == "__main__":
    main()
