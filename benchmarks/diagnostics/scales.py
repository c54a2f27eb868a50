"""Errors of fits to data with rarely spiking observation dimensions, by scaling of the loss.

    python -m benchmarks.diagnostics.scales --tasks Ant-v5 --seeds 0 1 2 3 4 --resume

A twin is fitted to the real steps of each task and rolled out along as many others, with other seeds. Errors are in
units of `scales_of`; `relative` is the error divided by that of the last observation repeated. A column is "spiking" if
nearly all of its values are equal; constant columns are skipped. Scalings:

    before   errors in standard deviations of the validation split, and a Gaussian likelihood
    units    errors in robust units of all data (which selects the weights), and a Gaussian likelihood
    after    robust units and a Huber likelihood, the default of a fit
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

import world_env.fitting.fit
from benchmarks.arguments import option, script_parser
from benchmarks.returns.returns import add_missing
from benchmarks.speed.fit_speed import transitions
from world_env.batch import Batch, Context
from world_env.data import EncodedEpisodes, encode_episodes
from world_env.fitting import FitConfig, FitWarning, fit_episodes
from world_env.model_evaluation import evaluate_open_loop, evaluation_windows, scales_of
from world_env.models import WorldModel
from world_env.policies import ExplorationConfig, RandomExploration, random_and_held
from world_env.rng import CounterRNG
from world_env.types import JSON, OBSERVATION

BENCHMARK = "scales"
MIXED = random_and_held(20)
TASKS: dict[str, tuple[int, ExplorationConfig]] = {
    "InvertedDoublePendulum-v5": (10_000, MIXED),
    "Ant-v5": (10_000, MIXED),
    "CartPole-v1": (2_000, RandomExploration()),
    "Pendulum-v1": (3_000, RandomExploration()),
}
"""Task -> real steps and exploration. The last two have no spiking dimension, as a control."""
SCALINGS = ("before", "units", "after")
HORIZONS = (1, 10, 50)
MIN_WINDOWS = 32
"""A horizon with fewer windows is skipped."""
TEST_SEEDS = 40_000
"""Added to the seed of a row: seeds of the test episodes."""
_MIN_CONSTANT_SHARE = 0.9
"""Share of equal values from which a column counts as spiking."""
_GAUSSIAN = {"huber_delta": 1e9}


def main() -> None:
    """Run the missing rows and write the file after each."""
    parser = script_parser(__doc__, BENCHMARK, tasks=TASKS, seeds=range(5), resume=True)
    option(parser, "--scalings", ["before", "after"], "scalings to fit with", SCALINGS)
    option(
        parser,
        "--gradient-steps",
        world_env.fitting.config.MIN_GRADIENT_STEPS,
        "gradient steps of a fit",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FitWarning)
    if not arguments.resume:
        arguments.out.unlink(missing_ok=True)
    for task in arguments.tasks:
        for seed in arguments.seeds:
            for scaling in arguments.scalings:
                key = {"task": task, "seed": seed, "scaling": scaling}
                key |= {"gradient_steps": arguments.gradient_steps}
                add_missing(arguments.out, BENCHMARK, key, partial(measured, **key))


def measured(task: str, seed: int, scaling: str, gradient_steps: int) -> JSON:
    """Rest of one row."""
    steps, exploration = TASKS[task]
    store = transitions(task, steps, exploration, seed)
    others = transitions(task, steps, exploration, TEST_SEEDS + seed).load()
    model = {} if scaling == "after" else _GAUSSIAN
    began = time.perf_counter()
    with old_units() if scaling == "before" else nullcontext():
        config = FitConfig(seed=seed, gradient_steps=gradient_steps, model=model)
        twin = fit_episodes(store.load(), store.spec, config)
    seconds = round(time.perf_counter() - began)
    data, test = (encode_episodes(part, twin.codec) for part in (store.load(), others))
    scale, spiking = scales_of(data), spiking_columns(data)
    kinds = {"ordinary": ~spiking & moving_columns(data), "spiking": spiking}
    return {
        "real_steps": steps,
        "exploration": exploration.to_json(),
        "columns": {name: int(kind.sum()) for name, kind in kinds.items()},
        "selected_by": twin.fidelity["loss"]["best_open_loop"],
        "open_loop": evaluate_open_loop(twin.model, test, horizon=HORIZONS[-1], scale=scale).score,
        "errors": errors_by_kind(twin.model, test, scale[OBSERVATION], kinds),
        "disagreement_by_spiking": disagreement_share(twin.model, test, spiking),
        "seconds": seconds,
    }


@contextmanager
def old_units() -> Iterator[None]:
    """Within the block, fits measure errors in standard deviations of the validation split."""
    original = world_env.fitting.fit.evaluate_open_loop

    def evaluate(
        model: WorldModel, data: EncodedEpisodes, *, scale: Any = None, **rest: Any
    ) -> Any:
        old = {
            key: value.flatten(1).std(0).clamp(min=1e-6) for key, value in data.observations.items()
        }
        return original(model, data, scale=old, **rest)

    world_env.fitting.fit.evaluate_open_loop = evaluate
    try:
        yield
    finally:
        world_env.fitting.fit.evaluate_open_loop = original


def moving_columns(data: EncodedEpisodes) -> Tensor:
    """(D,) bool: columns that are not constant."""
    values = data.observations[OBSERVATION]
    return values.amax(0) > values.amin(0)


def spiking_columns(data: EncodedEpisodes) -> Tensor:
    """(D,) bool: columns with nearly always the same value."""
    values = data.observations[OBSERVATION]
    still = (values == values.median(0).values).float().mean(0)
    return (still >= _MIN_CONSTANT_SHARE) & moving_columns(data)


@torch.no_grad()
def errors_by_kind(
    model: WorldModel, data: EncodedEpisodes, scale: Tensor, kinds: dict[str, Tensor]
) -> list[JSON]:
    """Root mean square errors of each kind of column, for each horizon with enough windows."""
    found = []
    for horizon in HORIZONS:
        # Rare spikes need many windows: nearly all that are long enough.
        starts = (data.left >= horizon).nonzero().squeeze(1)
        if len(starts) < MIN_WINDOWS:
            continue
        batch = data.gather(starts[:: max(1, len(starts) // 4000)], horizon)
        missed, moved = _misses(model, batch, scale)
        row: JSON = {"horizon": horizon, "windows": len(batch)}
        for name, kind in kinds.items():
            row[name] = _relative(missed[:, kind], moved[:, kind]) if bool(kind.any()) else None
        found.append(row)
    return found


def _misses(model: WorldModel, batch: Batch, scale: Tensor) -> tuple[Tensor, Tensor]:
    """(B, D) errors at the end of the window, of the model and of the first observation repeated."""
    rng = CounterRNG.from_seed(0, len(batch))
    first = batch.start()
    state = model.encode(Context.from_observation(first, batch.actions.shape[-1]), rng=rng)
    for step in range(batch.actions.shape[1]):
        state, _ = model.step(state, batch.actions[:, step], rng=rng, temperature=0.0)
    real = batch.observations[OBSERVATION][:, -1]
    return (model.decode(state)[OBSERVATION] - real) / scale, (first[OBSERVATION] - real) / scale


def _relative(missed: Tensor, moved: Tensor) -> JSON:
    error, hold_last = (float(values.square().mean().sqrt()) for values in (missed, moved))
    return {
        "error": error,
        "hold_last": hold_last,
        "relative": error / hold_last if hold_last > 0 else None,
    }


@torch.no_grad()
def disagreement_share(model: Any, data: EncodedEpisodes, kind: Tensor) -> float:
    """Share of this kind of column in the disagreement of the members."""
    batch = evaluation_windows(data, 1)
    inputs = torch.cat(
        [model.normalizer.normalize(batch.start()[OBSERVATION]), batch.actions[:, 0]], -1
    )
    mean, _ = model.dynamics(inputs[None]).chunk(2, -1)
    each = mean.var(0).mean(0)
    return float(each[kind].sum() / each.sum())


if __name__ == "__main__":
    main()
