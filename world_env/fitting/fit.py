"""Fit a world model of any family to episodes."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from world_env.atomic_io import check_target
from world_env.batch import Observation
from world_env.codec import Codec
from world_env.data.dataset import EncodedEpisodes, dataset_states, encode_episodes, starts
from world_env.data.episode import Episode, digests, pieces_of, split_pieces
from world_env.data.sources import open_dataset
from world_env.data.statistics import data_range
from world_env.data.terminal_bounds import end_bounds
from world_env.data.truncations import truncations_as_terminations
from world_env.data_range import DataRange
from world_env.device import as_device, torch_defaults
from world_env.errors import DataError
from world_env.fitting.checkpoint import read_checkpoint, write_checkpoint
from world_env.fitting.config import FitConfig, gradient_steps_for
from world_env.fitting.encoding import encoding_of
from world_env.fitting.preconditions import (
    FitWarning,
    check_amount,
    check_data,
    check_family,
    check_same_kind,
    fit_notes,
)
from world_env.metrics import MetricsWriter
from world_env.model_evaluation.errors import scales_of
from world_env.model_evaluation.open_loop import OpenLoop, evaluate_open_loop, one_step
from world_env.model_evaluation.termination import termination_scores, termination_threshold
from world_env.model_evaluation.termination_rule import (
    choose_termination_rule,
    miscounts_ends,
    sampling_twin,
)
from world_env.models.base import TrainableWorldModel
from world_env.models.conditioning import check_shapes
from world_env.results.fidelity import Fidelity, FitLosses, TerminationScores
from world_env.results.lint_issue import LintIssue
from world_env.results.provenance import Provenance, current_commit
from world_env.rng import CounterRNG
from world_env.run_config import check_same_config, one_at_a_time
from world_env.seeding import SeedPurpose, derived_seed
from world_env.simulation.termination import TerminalBounds
from world_env.spec import WorldSpec
from world_env.twin.serialization import read_json
from world_env.twin.twin import KnownFunction, Twin
from world_env.types import JSON

_MIN_TERMINALS = 20
"""Terminal labels in the validation split that suffice to choose the threshold. With fewer, all data choose it."""
Progress = Callable[[int, int, JSON], None]
"""(gradient steps done, gradient steps in total, logs): called after each validation."""

_log = logging.getLogger(__name__)


@torch_defaults()
@one_at_a_time(lambda data, out, *_, **__: out)
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

    An interrupted fit resumes from its checkpoint when the same call is made again. A finished fit with the same
    settings is made again and replaced.
    horizon: time limit of the task in steps (None: that of the data).
    progress: called after each validation.
    tensorboard: folder for TensorBoard logs, by gradient steps.
    reward_fn, termination_fn: as in `fit_episodes`.
    Raises ConfigMismatchError if `out` holds a twin that was fitted with other settings, LintError, DataError,
    TooLittleDataError, StageError if `out` cannot be written or the checkpoint belongs to another fit, or
    StageBusyError while another process fits into `out`.
    """
    out = Path(out)
    _check_settings(out, config or FitConfig())
    spec, episodes, provenance = open_dataset(str(data), horizon=horizon)
    check_target(out, marker="twin.json", noun="twin")
    checkpoint = out.parent / f".{out.name}.fit.pt"
    twin = fit_episodes(
        episodes,
        spec,
        config,
        provenance=provenance,
        progress=progress,
        tensorboard=tensorboard,
        checkpoint=checkpoint,
        reward_fn=reward_fn,
        termination_fn=termination_fn,
    )
    twin.save(out)
    checkpoint.unlink(missing_ok=True)
    return twin


def _check_settings(out: Path, config: FitConfig) -> None:
    """Raise ConfigMismatchError if the folder holds a twin that was fitted with other settings."""
    stored = (
        read_json(out)["provenance"].stages.get("fit") if (out / "twin.json").is_file() else None
    )
    if stored is not None:
        # The default number of gradient steps depends on the data.
        may_change = ("gradient_steps",) if config.gradient_steps is None else ()
        check_same_config(stored, config.to_json(), out, may_change=may_change)


@torch_defaults()
def fit_episodes(
    episodes: Sequence[Episode],
    spec: WorldSpec,
    config: FitConfig | None = None,
    *,
    provenance: Provenance | None = None,
    progress: Progress | None = None,
    tensorboard: Path | None = None,
    checkpoint: Path | None = None,
    reward_fn: KnownFunction | None = None,
    termination_fn: KnownFunction | None = None,
    warm_start: Twin | None = None,
    encoding: Twin | None = None,
    issues: list[LintIssue] | None = None,
    draft: bool = False,
) -> Twin:
    """Fit a twin to episodes in memory.

    provenance: origin of the data; the fit adds its own fields.
    progress, tensorboard: as in `fit`.
    checkpoint: file for resuming, written at each validation.
    warm_start: twin of the same environment, family and configuration, fitted to less data, whose weights are the
        initial weights. Fewer gradient steps are enough then.
    encoding: twin whose encoding of observations (`WorldSpec.angles`, `DataRange.offset`) this one has, to compare the
        errors of both models on the same tensors. None: the data show which columns are angles.
    reward_fn, termination_fn: known functions that replace the learned ones. `Twin.load` needs them again.
    issues: known issues of the data, stored in the twin (None: `lint` finds them).
    draft: measure the open-loop errors up to `eval_horizon` steps only, for a twin that another one soon replaces.
    Warns with FitWarning of data that limit the twin; the warnings of `lint` are logged.
    Raises LintError, TooLittleDataError, InvalidOptionError, StageError, and DataError if the fit diverges.
    """
    episodes = check_amount(episodes)
    steps, config = sum(map(len, episodes)), config or FitConfig()
    config = config.replace(gradient_steps=config.gradient_steps or gradient_steps_for(steps))
    device = as_device(config.device)
    episodes, issues = _checked(episodes, spec, config, issues, reward_fn, termination_fn)
    started, provenance = time.perf_counter(), provenance or Provenance()
    pieces = split_pieces([len(e) for e in episodes], config.validation_fraction, config.seed)
    training, held_out = (pieces_of(episodes, side) for side in pieces)
    spec, offset = encoding_of(episodes, spec, warm_start, encoding)
    bounds = end_bounds(training if config.hard_termination_bounds else [], spec)
    ranges = dataclasses.replace(data_range(episodes, spec, ends=bounds), offset=offset)
    everything = encode_episodes(episodes, Codec(spec, ranges))
    validation = everything.part(pieces[1])
    notes = fit_notes(everything.part(pieces[0]), validation, spec)
    model = _new_model(spec, config)
    check_shapes(model, everything.conditioning, "the data")
    model.prepare(everything.statistics())
    initial = {} if warm_start is None else _start_from(warm_start, model, spec, config.family)
    begun, most = starts(everything), config.max_dataset_states
    states = dataset_states(everything, most, config.seed, context=model.context)
    model.to(device)
    validation, everything = validation.to(device), everything.to(device)
    train, scale = everything.windows_of(pieces[0]), scales_of(everything)
    with MetricsWriter(tensorboard, "fit") as metrics:
        logs = _optimize(
            model, train, validation, scale, config, progress, metrics, checkpoint, initial
        )
    model.eval().requires_grad_(False)
    found = _termination(model, ranges, validation, train)
    curve = _open_loop(model, validation, scale, config.eval_horizon if draft else None)
    fidelity = _fidelity(curve, len(validation), found.scores, notes, logs, issues)
    twin = Twin(
        spec=spec,
        family=config.family,
        model=model.to("cpu"),
        starts=begun,
        states=states,
        ranges=ranges,
        termination_threshold=found.threshold,
        uncertainty_threshold=found.largest_uncertainty,
        provenance=provenance.replace(
            stages=provenance.stages | {"fit": config.to_json()},
            steps=steps,
            episodes=len(episodes),
            fit_seconds=round(time.perf_counter() - started, 1),
            commit=current_commit(),
            **digests(episodes, held_out),
            **initial,
        ),
        fidelity=fidelity,
        reward_fn=reward_fn,
        termination_fn=termination_fn,
    )
    return _with_termination_rule(twin, found, held_out, episodes)


def _checked(
    episodes: list[Episode],
    spec: WorldSpec,
    config: FitConfig,
    issues: list[LintIssue] | None,
    reward_fn: KnownFunction | None,
    termination_fn: KnownFunction | None,
) -> tuple[list[Episode], list[LintIssue]]:
    """Return the episodes as they are fitted, and the issues of the data. Raises LintError."""
    if issues is None:
        functions = {"reward": reward_fn, "termination": termination_fn}
        known = [name for name, function in functions.items() if function is not None]
        issues = check_data(episodes, spec, config, known)
    if config.truncations == "ends":
        episodes = truncations_as_terminations(episodes, spec)
    return episodes, issues


def _start_from(older: Twin, model: TrainableWorldModel, spec: WorldSpec, family: str) -> JSON:
    """Initialise a model by that of an older twin. Returns the entry of the twin's provenance."""
    check_same_kind(older, spec, family, model)
    if older.spec.angles != spec.angles:
        warnings.warn(
            "no warm start: the new data show angles that wrap, which the older twin does not encode as cosine and "
            "sine. This fit starts from scratch and needs the gradient steps of a full fit",
            FitWarning,
            stacklevel=3,
        )
        return {}
    model.warm_start(cast("TrainableWorldModel", copy.deepcopy(older.model).cpu()))
    return {"warm_start": older.fingerprint()}


def _optimize(
    model: TrainableWorldModel,
    train: EncodedEpisodes,
    validation: EncodedEpisodes,
    scale: Observation,
    config: FitConfig,
    progress: Progress | None,
    metrics: MetricsWriter,
    checkpoint: Path | None,
    initial: JSON,
) -> JSON:
    """Run the training loop, load the best weights into the model and return the last logs.

    scale: scale of each observation dimension, for the open-loop error.
    initial: identity of the initial weights, which a checkpoint must match too.
    """
    gradient_steps = config.gradient_steps or gradient_steps_for(len(train))
    groups, rate = model.parameter_groups(), config.learning_rate or model.learning_rate
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=config.weight_decay, fused=True)
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    data = None if checkpoint is None else train.fingerprint()
    identity = config.to_json() | {"data": data, "allow_errors": None} | initial
    best, score, first = _copy(model), float("inf"), 0
    logs: JSON = {}
    if checkpoint is not None and checkpoint.is_file():
        best, score, first, logs = read_checkpoint(checkpoint, identity, model, optimizer)
        _log.info("resuming an interrupted fit at gradient step %d of %d", first, gradient_steps)
    for update in range(first, gradient_steps):
        share = update / gradient_steps
        for group in optimizer.param_groups:
            group["lr"] = rate * _schedule(share) * group.get("lr_scale", 1.0)
        generator = torch.Generator().manual_seed(
            derived_seed(config.seed, SeedPurpose.WINDOWS, update)
        )
        length = min(model.window(share), train.longest)
        size, context = config.batch_size or model.windows, model.batch_context
        batch = train.windows(size, length, generator, context=context)
        noise = derived_seed(config.seed, SeedPurpose.LOSS_NOISE, update)
        rng = CounterRNG.from_seed(noise, len(batch), device=train.device)
        loss, parts = model.loss(batch, rng=rng, progress=share)
        optimizer.zero_grad()
        loss.backward()
        _clip(parameters, config.max_gradient_norm)
        optimizer.step()
        with torch.no_grad():
            model.after_update(batch)
        done = update + 1
        if done % config.validate_every == 0 or done == gradient_steps:
            measured = evaluate_open_loop(
                model,
                validation,
                horizon=config.eval_horizon,
                scale=scale,
                windows=config.eval_windows,
            )
            # Early models can have a low open-loop error although their termination head is untrained.
            selectable = done >= model.select_from * gradient_steps
            logs = _plain(parts) | {
                "open_loop": measured.score,
                "open_loop_rms": float(measured.error.mean()),
                "hold_last_rms": float(measured.hold_last.mean()),
            }
            if selectable and measured.score <= score:
                best, score = _copy(model), measured.score
            if checkpoint is not None:
                write_checkpoint(checkpoint, identity, model, optimizer, best, score, done, logs)
            metrics.write(done, logs | {"loss": loss.item()})
            (progress or _silent)(done, gradient_steps, logs)
    if score == float("inf"):
        raise DataError(
            "the fit diverged: no validation gave a finite open-loop error. Lower learning_rate, or check the data for "
            "extreme values"
        )
    model.load_state_dict(best)
    return logs | {"best_open_loop": score}


def _silent(done: int, wanted: int, logs: JSON) -> None:
    """A progress callback that does nothing."""


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


@dataclass(frozen=True)
class _Terminations:
    """Predicted terminations on real steps.

    threshold: termination threshold. scores: on the validation split. uncertainty: (N,) of the training split.
    on_validation: whether the validation split chose the threshold, or all data. chosen: (probability, label) there.
    """

    threshold: float
    scores: TerminationScores
    uncertainty: Tensor
    on_validation: bool
    chosen: tuple[Tensor, Tensor]

    @property
    def largest_uncertainty(self) -> float | None:
        """Largest uncertainty on the training split; None for a model without one."""
        return float(self.uncertainty.max()) if bool(self.uncertainty.isfinite().all()) else None


def _termination(
    model: TrainableWorldModel,
    ranges: DataRange,
    validation: EncodedEpisodes,
    everything: EncodedEpisodes,
) -> _Terminations:
    """Choose the termination threshold and score it on the validation split.

    everything: all data; its windows begin at the steps of the training split.
    """
    probability, label, _ = one_step(model, validation, ranges=ranges)
    every_probability, every_label, uncertainty = one_step(model, everything, ranges=ranges)
    if everything.begins is not None:
        uncertainty = uncertainty[everything.begins.cpu()]
    enough = int(label.sum()) >= _MIN_TERMINALS
    chosen = (probability, label) if enough else (every_probability, every_label)
    threshold = termination_threshold(*chosen)
    bounds = TerminalBounds(ranges).descriptions()
    scores = termination_scores(probability, label, threshold, bounds)
    return _Terminations(threshold, scores, uncertainty, enough, chosen)


def _with_termination_rule(
    twin: Twin, found: _Terminations, validation: Sequence[Episode], everything: Sequence[Episode]
) -> Twin:
    """Choose between threshold and sampled terminations, where the threshold miscounts the ends of its own data."""
    if twin.termination_fn is not None or not miscounts_ends(*found.chosen, found.threshold):
        return twin
    sampling = sampling_twin(twin, *found.chosen)
    episodes = validation if found.on_validation else everything
    rule = choose_termination_rule(twin, sampling, episodes)
    if rule is None:
        return twin
    fidelity = twin.fidelity.replace(termination_rule=rule)
    return dataclasses.replace(sampling if rule.rule == "sample" else twin, fidelity=fidelity)


def _open_loop(
    model: TrainableWorldModel, validation: EncodedEpisodes, scale: Observation, most: int | None
) -> OpenLoop:
    """Open-loop errors, on the device of the fit, to the end of the longest episode or up to `most` steps."""
    longest = int(validation.left.max())
    horizon = longest if most is None else min(longest, most)
    return evaluate_open_loop(model, validation, horizon=horizon, scale=scale)


def _fidelity(
    curve: OpenLoop,
    validation_steps: int,
    scores: TerminationScores,
    notes: list[str],
    logs: JSON,
    issues: list[LintIssue],
) -> Fidelity:
    own = FitLosses.__struct_fields__
    return Fidelity(
        validation_steps=validation_steps,
        open_loop=curve.rounded(),
        reward_error=curve.reward_error,
        termination=scores,
        notes=notes,
        lint=issues,
        loss=FitLosses(
            **{name: value for name, value in logs.items() if name in own},
            parts={name: value for name, value in logs.items() if name not in own},
        ),
    )


def _new_model(spec: WorldSpec, config: FitConfig) -> TrainableWorldModel:
    model_class, model_config = check_family(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(config.seed, SeedPurpose.WEIGHTS))
        return model_class(spec, model_config)


def _copy(model: TrainableWorldModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _plain(parts: dict[str, Tensor]) -> JSON:
    return {name: part.item() if part.ndim == 0 else part.tolist() for name, part in parts.items()}
