"""Fit a world model of any family to episodes."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from world_env.batch import Observation
from world_env.codec import Codec
from world_env.data.dataset import EncodedEpisodes, dataset_states, encode_episodes, starts
from world_env.data.episode import Episode, digests, split
from world_env.data.sources import open_dataset
from world_env.data.statistics import data_range
from world_env.data.terminal_bounds import end_bounds
from world_env.data_range import DataRange
from world_env.device import as_device
from world_env.errors import DataError
from world_env.fitting.checkpoint import read_checkpoint, write_checkpoint
from world_env.fitting.config import FitConfig, gradient_steps_for
from world_env.fitting.preconditions import (
    check_amount,
    check_family,
    check_same_kind,
    check_target,
    check_windows,
    fit_notes,
)
from world_env.model_evaluation.errors import scales_of
from world_env.model_evaluation.open_loop import evaluate_open_loop, one_step
from world_env.model_evaluation.termination import termination_scores, termination_threshold
from world_env.models.base import TrainableWorldModel
from world_env.provenance import current_commit
from world_env.rng import CounterRNG
from world_env.simulation.termination import TerminalBounds
from world_env.spec import WorldSpec
from world_env.twin.twin import KnownFunction, Twin
from world_env.types import JSON

_MIN_TERMINALS = 20
"""Terminal labels in the validation split that suffice to choose the threshold. With fewer, all data choose it."""
_MAX_SELECTION_HORIZON = 200
"""Longest horizon, in steps, of the open-loop error that selects the weights."""
_SELECT_FROM = 0.5
"""Fraction of the gradient steps after which weights can be selected."""
Progress = Callable[[int, int, JSON], None]
"""(gradient steps done, gradient steps in total, logs): called after each validation."""

_log = logging.getLogger(__name__)


def fit(
    data: str | Path,
    out: Path,
    config: FitConfig | None = None,
    *,
    horizon: int | None = None,
    progress: Progress | None = None,
    tensorboard: Path | None = None,
    reward_fn: KnownFunction | None = None,
    termination_fn: KnownFunction | None = None,
) -> Twin:
    """Fit a twin to an episode store or "minari:ID" and save it to `out`.

    An interrupted fit resumes from its checkpoint when the same call is made again.
    horizon: time limit of the task in steps (None: that of the data).
    progress: called after each validation.
    tensorboard: folder for TensorBoard logs.
    reward_fn, termination_fn: as in `fit_episodes`.
    Raises DataError, TooLittleDataError, or StageError if `out` cannot be written or the checkpoint belongs to another
    fit.
    """
    spec, episodes, provenance = open_dataset(str(data), horizon=horizon)
    out = Path(out)
    check_target(out)
    with _writer(tensorboard) as write:

        def report(done: int, total: int, logs: JSON) -> None:
            write(done, logs)
            if progress is not None:
                progress(done, total, logs)

        checkpoint = out.parent / f".{out.name}.fit.pt"
        twin = fit_episodes(
            episodes,
            spec,
            config,
            provenance=provenance,
            progress=report,
            checkpoint=checkpoint,
            reward_fn=reward_fn,
            termination_fn=termination_fn,
        )
    twin.save(out)
    checkpoint.unlink(missing_ok=True)
    return twin


def fit_episodes(
    episodes: Sequence[Episode],
    spec: WorldSpec,
    config: FitConfig | None = None,
    *,
    provenance: JSON | None = None,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    reward_fn: KnownFunction | None = None,
    termination_fn: KnownFunction | None = None,
    warm_start: Twin | None = None,
) -> Twin:
    """Fit a twin to episodes in memory.

    provenance: JSON tree for the provenance of the twin.
    checkpoint: file for resuming, written at each validation.
    warm_start: twin of the same environment, family and configuration, fitted to less data, whose weights are the
        initial weights. Fewer gradient steps are enough then.
    reward_fn, termination_fn: known functions that replace the learned ones. `Twin.load` needs them again.
    Warns with FitWarning of data that limit the twin.
    Raises TooLittleDataError, InvalidOptionError, StageError, and DataError if the fit diverges.
    """
    steps, config = sum(map(len, episodes)), config or FitConfig()
    gradient_steps = config.gradient_steps or gradient_steps_for(steps)
    config, device = config.replace(gradient_steps=gradient_steps), as_device(config.device)
    started = time.perf_counter()
    training, held_out = split(check_amount(episodes), config.validation_fraction, config.seed)
    bounds = end_bounds(training if config.hard_termination_bounds else [], spec)
    ranges = data_range(list(episodes), spec, ends=bounds)
    codec = Codec(spec, ranges)
    train, validation = encode_episodes(training, codec), encode_episodes(held_out, codec)
    notes = fit_notes(train, validation, spec)
    model = _new_model(spec, config)
    check_windows(model, episodes)
    everything = encode_episodes(list(episodes), codec)
    model.prepare(everything.statistics())
    initial: JSON = {}
    if warm_start is not None:
        check_same_kind(warm_start, spec, config.family, config.model)
        model.warm_start(cast("TrainableWorldModel", copy.deepcopy(warm_start.model).cpu()))
        initial = {"warm_start": warm_start.fingerprint()}
    states = dataset_states(
        everything, config.max_dataset_states, config.seed, context=model.context
    )
    model.to(device)
    train, validation, everything = (each.to(device) for each in (train, validation, everything))
    scale = scales_of(everything)
    logs = _optimize(
        model, train, validation, scale, config, gradient_steps, progress, checkpoint, initial
    )
    model.eval().requires_grad_(False)
    threshold, scores, uncertainty = _termination(model, ranges, validation, everything)
    fidelity = _measure(model, validation, scale)
    fidelity |= {"termination": scores, "notes": notes, "loss": logs}
    return Twin(
        spec=spec,
        family=config.family,
        model=model.to("cpu"),
        starts=starts(list(episodes), codec),
        states=states,
        ranges=ranges,
        termination_threshold=threshold,
        uncertainty_threshold=float(uncertainty.max())
        if bool(uncertainty.isfinite().all())
        else None,
        provenance=(provenance or {})
        | {
            "fit": config.to_json(),
            "steps": steps,
            "episodes": len(episodes),
            **digests(episodes, held_out),
            "fit_seconds": round(time.perf_counter() - started, 1),
            "commit": current_commit(),
            **initial,
        },
        fidelity=fidelity,
        reward_fn=reward_fn,
        termination_fn=termination_fn,
    )


def _optimize(
    model: TrainableWorldModel,
    train: EncodedEpisodes,
    validation: EncodedEpisodes,
    scale: Observation,
    config: FitConfig,
    gradient_steps: int,
    progress: Progress | None,
    checkpoint: Path | None,
    initial: JSON,
) -> JSON:
    """Run the training loop, load the best weights into the model and return the last logs.

    scale: scale of each observation dimension, for the open-loop error.
    initial: identity of the initial weights, which a checkpoint must match too.
    """
    parameters, rate = list(model.parameters()), config.learning_rate or model.learning_rate
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=config.weight_decay, fused=True)
    identity = config.to_json() | {"data": train.fingerprint()} | initial
    best, score, first = _copy(model), float("inf"), 0
    logs: JSON = {}
    if checkpoint is not None and checkpoint.is_file():
        best, score, first, logs = read_checkpoint(checkpoint, identity, model, optimizer)
        _log.info("resuming an interrupted fit at gradient step %d of %d", first, gradient_steps)
    for update in range(first, gradient_steps):
        share = update / gradient_steps
        for group in optimizer.param_groups:
            group["lr"] = rate * _schedule(share)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + update)
        batch = train.windows(config.batch_size or model.windows, model.window(share), generator)
        rng = CounterRNG.from_seed(update * len(batch), len(batch), device=train.device)
        loss, parts = model.loss(batch, rng=rng, progress=share)
        optimizer.zero_grad()
        loss.backward()
        _clip(parameters, config.max_gradient_norm)
        optimizer.step()
        done = update + 1
        if done % config.validate_every == 0 or done == gradient_steps:
            measured = evaluate_open_loop(
                model, validation, horizon=_MAX_SELECTION_HORIZON, scale=scale
            )
            # Early models can have a low open-loop error although their termination head is untrained.
            selectable = done >= _SELECT_FROM * gradient_steps
            logs = _plain(parts) | {
                "open_loop": measured.score,
                "open_loop_rms": float(measured.error.mean()),
                "hold_last_rms": float(measured.hold_last.mean()),
            }
            if selectable and measured.score <= score:
                best, score = _copy(model), measured.score
            if checkpoint is not None:
                write_checkpoint(checkpoint, identity, model, optimizer, best, score, done, logs)
            if progress is not None:
                progress(done, gradient_steps, logs)
    if score == float("inf"):
        raise DataError(
            "the fit diverged: no validation gave a finite open-loop error. Lower learning_rate, or check the data for "
            "extreme values"
        )
    model.load_state_dict(best)
    return logs | {"best_open_loop": score}


def _clip(parameters: list[nn.Parameter], most: float) -> None:
    """Scale gradients with a larger norm down to the norm `most`. Smaller ones need no pass over the gradients."""
    norm = get_total_norm([each.grad for each in parameters if each.grad is not None])
    # `not <=` is true for NaN: all weights become NaN at once, and the next validation detects it.
    if not norm <= most:
        clip_grads_with_norm_(parameters, most, norm)


def _schedule(share: float) -> float:
    """Return the factor of the learning rate: warm-up over 2 % of the gradient steps, then a cosine to 2 %."""
    warm = min(1.0, (share + 1e-3) / 0.02)
    return warm * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(share * math.pi)))


def _termination(
    model: TrainableWorldModel,
    ranges: DataRange,
    validation: EncodedEpisodes,
    everything: EncodedEpisodes,
) -> tuple[float, JSON, Tensor]:
    """Return (termination threshold, its scores on the validation split, uncertainty of each real step)."""
    probability, label, _ = one_step(model, validation, ranges=ranges)
    every_probability, every_label, uncertainty = one_step(model, everything, ranges=ranges)
    threshold = (
        termination_threshold(probability, label)
        if int(label.sum()) >= _MIN_TERMINALS
        else termination_threshold(every_probability, every_label)
    )
    scores = termination_scores(probability, label, threshold)
    return threshold, scores | {"bounds": TerminalBounds(ranges).descriptions()}, uncertainty


def _measure(model: TrainableWorldModel, validation: EncodedEpisodes, scale: Observation) -> JSON:
    longest = int(validation.left.max())
    curve = evaluate_open_loop(model, validation, horizon=longest, scale=scale)
    return {
        "held_out_steps": len(validation),
        "open_loop": curve.to_json(),
        "reward_error": curve.reward_error,
    }


def _new_model(spec: WorldSpec, config: FitConfig) -> TrainableWorldModel:
    model_class, model_config = check_family(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return model_class(spec, model_config)


def _copy(model: TrainableWorldModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _plain(parts: dict[str, Tensor]) -> JSON:
    return {name: part.item() if part.ndim == 0 else part.tolist() for name, part in parts.items()}


@contextmanager
def _writer(folder: Path | None) -> Iterator[Callable[[int, JSON], None]]:
    """Yield a function that writes logs to TensorBoard, or does nothing without a folder."""
    if folder is None:
        yield lambda done, logs: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:

        def write(done: int, logs: JSON) -> None:
            for name, value in logs.items():
                if isinstance(value, float | int):
                    writer.add_scalar(f"fit/{name}", value, done)

        yield write
