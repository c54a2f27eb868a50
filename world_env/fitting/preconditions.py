"""Checks and warnings before a fit."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Sequence
from typing import Any

from gymnasium import spaces

from world_env.data.dataset import EncodedEpisodes
from world_env.data.episode import Episode
from world_env.data.statistics import column_notes
from world_env.data.validation.issue import LintIssue, number_of
from world_env.data.validation.lint import lint
from world_env.errors import InvalidOptionError, LintError, TooLittleDataError
from world_env.fitting.config import FitConfig
from world_env.models.base import TrainableWorldModel, WorldModel
from world_env.models.config import config_from_json
from world_env.models.registry import load_family
from world_env.spaces import is_image, symbols_advice
from world_env.spec import WorldSpec
from world_env.twin.twin import Twin

MIN_STEPS = 100
"""Minimum number of real steps of a fit."""
FEW_TERMINALS = 5
"""Terminal labels below which a fit warns that termination is unreliable."""
MIN_PIXEL_RANGE = 32
"""Range of pixel values, of 255, below which a fit warns of low contrast."""
_MAX_SYMBOL = 15
"""Range of pixel values up to which an image may be a grid of symbols."""
_CHECKS_OF = {
    "reward": ("constant_reward", "reward_shift", "reward_clock"),
    "termination": ("time_limit", "chance_ends", "state_truncation"),
}
"""Outcome -> checks of `lint` that do not matter where a known function computes it."""
_MAX_NAMES = 3
"""Names in a note that counts several observations."""

_log = logging.getLogger(__name__)


class FitWarning(UserWarning):
    """The data limit the quality of the twin, but it can be fitted."""


def check_family(config: FitConfig) -> tuple[type[TrainableWorldModel], Any]:
    """The class and the configuration of a fit's model.

    Raises UnknownFamilyError, PluginError and InvalidOptionError.
    """
    model_class = load_family(config.family)
    options = config.model
    if config.preset is not None:
        if config.preset not in model_class.presets:
            known = ", ".join(model_class.presets) or "none"
            raise InvalidOptionError(
                f"preset is {config.preset!r}, but the presets of the family {config.family!r} are: {known}"
            )
        options = model_class.presets[config.preset] | options
    where = f"model options {config.model} do not fit the family {config.family!r}"
    model_config = config_from_json(model_class.config_class, options, where=where)
    if not issubclass(model_class, TrainableWorldModel):
        raise InvalidOptionError(
            f"family {config.family!r} cannot be trained: its model must be a TrainableWorldModel"
        )
    return model_class, model_config


def check_amount(episodes: Sequence[Episode]) -> list[Episode]:
    """Return the episodes as a list. Raise TooLittleDataError if they have too few steps."""
    steps = sum(len(episode) for episode in episodes)
    if steps < MIN_STEPS:
        raise TooLittleDataError(
            f"too little data: {steps} steps in {len(episodes)} episodes, expected at least {MIN_STEPS} steps (a good "
            "fit usually needs 2,000 or more). Collect more with `world-env collect`."
        )
    return list(episodes)


def check_same_kind(older: Twin, spec: WorldSpec, family: str, model: WorldModel) -> None:
    """Raise InvalidOptionError unless the twin `older` can be the warm start of a fit of this model."""
    for name, earlier, expected in (
        ("family", older.family, family),
        ("model options", older.model.config, model.config),
        ("observation space", older.spec.observation_space, spec.observation_space),
        ("action space", older.spec.action_space, spec.action_space),
    ):
        if earlier != expected:
            raise InvalidOptionError(
                f"the twin of warm_start has another {name}: {earlier}, expected {expected}. Choose a twin of the same "
                "environment and configuration, or fit from scratch."
            )


def check_data(
    episodes: Sequence[Episode], spec: WorldSpec, config: FitConfig, known: Collection[str] = ()
) -> list[LintIssue]:
    """Run `lint` before a fit. Return the errors and warnings that concern it, and log each in one line.

    known: outcomes that known functions compute ("reward", "termination"), whose data are not checked.
    Raises LintError for errors, unless the configuration allows them.
    """
    model_class, options = check_family(config)
    left_out = {check for name in known for check in _CHECKS_OF[name]}
    if getattr(options, "context", model_class.context) > 1:
        left_out.add("hidden_state")
    if config.truncations == "ends":
        left_out.add("state_truncation")
    issues = [
        issue
        for issue in lint(episodes, spec)
        if issue.severity != "note" and issue.check not in left_out
    ]
    errors = [issue for issue in issues if issue.severity == "error"]
    if errors and not config.allow_errors:
        listed = " ".join(f"({n}) {issue}" for n, issue in enumerate(errors, 1))
        raise LintError(
            f"lint found {number_of(len(errors), 'error')} in the data, so no twin is fitted: {listed} Repair the data "
            "(`world-env lint` lists all issues), or pass --allow-errors to fit anyway (refine: --fit.allow-errors; "
            "Python: FitConfig(allow_errors=True))."
        )
    for issue in issues:
        _log.warning("lint: %s", issue)
    return issues


def fit_notes(train: EncodedEpisodes, validation: EncodedEpisodes, spec: WorldSpec) -> list[str]:
    """Return the limits of the data, one line per kind, and warn of each (FitWarning)."""
    image_notes, image_keys = _image_notes(train)
    notes = [*image_notes, *column_notes(train, without=image_keys)]
    labels = int(train.terminated.sum() + validation.terminated.sum())
    if spec.horizon is None:
        notes.append(
            "the data have no time limit, so no policy can be evaluated in the twin: pass --horizon STEPS"
        )
    if labels == 0:
        notes.append(
            "no episode ever terminated: the model cannot learn termination, so learned episodes end at the time limit "
            "only"
        )
    elif labels < FEW_TERMINALS:
        notes.append(
            f"only {labels} terminal labels, expected at least {FEW_TERMINALS}: predicted terminations are unreliable"
        )
    for note in notes:
        # Of the caller of `fit_episodes`, which is decorated.
        warnings.warn(note, FitWarning, stacklevel=4)
    return notes


def _image_notes(data: EncodedEpisodes) -> tuple[list[str], set[str]]:
    """Return the notes on images, one per kind, and the keys that they are about.

    Kinds: images with low contrast; arrays that look like images but are encoded as single numbers.
    """
    ranges: dict[str, int] = {}
    numbers: dict[str, int] = {}
    for key, space in data.codec.keys.items():
        values = data.observations[key]
        if is_image(space):
            reach = int(values.max()) - int(values.min())
            if reach < MIN_PIXEL_RANGE:
                ranges[key] = reach
        elif isinstance(space, spaces.Box) and len(space.shape) > 2:
            numbers[key] = values[0].numel()
    notes = []
    if ranges:
        key = min(ranges, key=ranges.__getitem__)
        symbols = ""
        if ranges[key] <= _MAX_SYMBOL:
            symbols = f" {symbols_advice(key, int(data.observations[key].max()) + 1)}"
        notes.append(
            f"{_names(ranges)}: pixels differ by at most {max(ranges.values())} of 255, which has little effect on "
            "the image loss. Scale them to [0, 255] (gymnasium.wrappers.TransformObservation), or declare their "
            f"real bounds, then they are fitted as numbers.{symbols}"
        )
    if numbers:
        one = data.codec.keys[next(iter(numbers))]
        notes.append(
            f"{_names(numbers)}: fitted as {sum(numbers.values()):,} single numbers, not as images (shape {one.shape}, "
            f"{one.dtype}). Images must be uint8 in [0, 255] with the shape (height, width), (height, width, channels) "
            "or (channels, height, width)."
        )
    return notes, {*ranges, *numbers}


def _names(keys: Collection[str]) -> str:
    """Name up to three observation keys, and count them if there are more."""
    shown = ", ".join(list(keys)[:_MAX_NAMES])
    return shown if len(keys) <= _MAX_NAMES else f"{len(keys)} observations (first: {shown})"
