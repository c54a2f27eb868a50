"""How well uncertainty tells where a twin is wrong, and how much of that its cheap default keeps.

    python -m benchmarks.diagnostics.uncertainty

For each task a twin is fitted (once, kept in WORLD_ENV_RUNS) and rolled out along held-out real episodes that it never
saw, from the first observation alone. A step is wrong where the error exceeds half a standard deviation of the data, or
where it is among the worst tenth. AUROC: the chance that a wrong step looks more uncertain than another. `gap` is the
difference to "full", all members at every step. `partner_every`: the default asks one other member every so many steps,
each in turn, and averages; "fixed": always the same other member, every step, no average.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.returns.returns import merge, read
from benchmarks.speed.fit_speed import transitions
from world_env.batch import Batch, Context, Observation
from world_env.data import encode_episodes, split
from world_env.fitting import FitConfig, FitWarning, fit_episodes
from world_env.model_evaluation import auroc, evaluation_windows, row_errors, scales_of
from world_env.provenance import facts
from world_env.rng import CounterRNG
from world_env.twin import Twin
from world_env.types import JSON

BENCHMARK = "uncertainty"
TASKS = {
    "Pendulum-v1": (3_000, "random"),
    "Hopper-v5": (30_000, "held:5"),
    "HalfCheetah-v5": (100_000, "held:5"),
}
"""Task -> real steps, and who collects them."""
EVERY = (1, 2, 4, 8)
HORIZON = 200
SEED = 100
"""Of data and fit: a tuning seed, it judges nothing."""


def main() -> None:
    """One row a task and kind of uncertainty."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--out", type=Path, default=Path(f"benchmarks/results/{BENCHMARK}.json"))
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
    """What each kind of uncertainty knows of one and the same rollouts' errors."""
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
        seen, errors = [], []
        for step in range(batch.actions.shape[1]):
            left, action = state, batch.actions[:, step]
            state, prediction = model.step(left, action, rng=rng, uncertainty=kind)
            doubt = prediction.uncertainty
            if name == "fixed":
                doubt = doubt - state["disagreement"].sqrt() + one_partner(model, left, action)
            seen.append(doubt)
            real = {key: value[:, step + 1] for key, value in batch.observations.items()}
            errors.append(row_errors(model.decode(state), real, scale))
        scores[name] = seen
    valid = batch.valid.T.numpy()
    error = torch.stack(errors).numpy()[valid]
    wrong = {"auroc_worst_tenth": error > np.quantile(error, 0.9), "auroc_half": error > 0.5}
    rows = []
    for name, seen in scores.items():
        row: JSON = {"task": task, "seed": SEED, "kind": name, "steps": int(valid.sum())}
        for label, is_wrong in wrong.items():
            row[label] = round(auroc(torch.stack(seen).numpy()[valid], is_wrong), 4)
            row[label.replace("auroc", "gap")] = round(
                row[label] - (rows[0][label] if rows else row[label]), 4
            )
        rows.append(row)
    return rows


def prepared(task: str) -> tuple[Twin, Batch, Observation]:
    """The task's twin, windows of its held-out episodes, and the scales of their errors."""
    steps, exploration = TASKS[task]
    store = transitions(task, steps, exploration, SEED)
    folder = Path(os.environ.get("WORLD_ENV_RUNS", "runs")) / BENCHMARK / task
    config = FitConfig(seed=SEED)
    episodes = store.load()
    if not (folder / "twin.json").is_file():
        fit_episodes(episodes, store.spec, config).save(folder)
    twin = Twin.load(folder.resolve())
    _, held_out = split(list(episodes), config.held_out, config.seed)
    data = encode_episodes(held_out, twin.codec)
    return twin, evaluation_windows(data, HORIZON), scales_of(data)


def one_partner(model: Any, state: Any, action: torch.Tensor) -> torch.Tensor:
    """(B,) disagreement of each row's member with the next one, always the same."""
    inputs = torch.cat([model.normalizer.normalize(state["observation"]), action], -1)
    mean, _ = model.dynamics(inputs[None]).chunk(2, -1)
    rows, member = torch.arange(len(action)), state["member"]
    difference = mean[member, rows] - mean[(member + 1) % len(mean), rows]
    return (0.5 * difference.square().mean(-1)).sqrt()


if __name__ == "__main__":
    main()
