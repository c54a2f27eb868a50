"""What a fit refuses before it begins, and what it warns of."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from gymnasium import spaces

from world_env.data.dataset import EncodedEpisodes
from world_env.data.episode import Episode
from world_env.data.statistics import column_notes
from world_env.errors import InvalidOptionError, StageError, TooLittleDataError
from world_env.models.base import TrainableWorldModel
from world_env.spaces import is_image
from world_env.spec import WorldSpec
from world_env.twin.twin import Twin
from world_env.types import JSON

MIN_STEPS = 100
"""Real steps below which no fit is worth its name."""
FEW_TERMINALS = 5
"""Terminal labels below which the termination head is a guess."""
_FAINT = 32
"""Levels of 255 that pixels should differ by."""


class FitWarning(UserWarning):
    """The data can be fitted, but something in it limits what the twin can know."""


def check_target(out: Path) -> None:
    """What saving would refuse after the fit is refused before it."""
    foreign = out.exists() and not (out / "twin.json").is_file()
    if foreign and (out.is_file() or any(out.iterdir())):
        raise StageError(
            f"{out} exists and is no twin: it is not overwritten. Choose another folder, or remove it first."
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise StageError(
            f"cannot write a twin to {out}: {error}. Choose a folder that can be written."
        ) from error


def check_amount(episodes: Sequence[Episode]) -> list[Episode]:
    """The episodes; raises TooLittleDataError for so few steps that nothing could be learned."""
    steps = sum(len(episode) for episode in episodes)
    if steps < MIN_STEPS:
        raise TooLittleDataError(
            f"{steps} steps in {len(episodes)} episodes are too little: a fit needs at least {MIN_STEPS} steps, "
            "a good one usually 2,000 or more. Collect more with `world-env collect`."
        )
    return list(episodes)


def check_windows(model: TrainableWorldModel, episodes: Sequence[Episode]) -> None:
    """Raises TooLittleDataError where no episode is as long as the windows that the family learns from."""
    longest, wanted = max(len(episode) for episode in episodes), model.window(1.0)
    if wanted > longest:
        raise TooLittleDataError(
            f"the model learns from windows of {wanted} steps, but the longest episode has {longest}: collect longer "
            "episodes, or shorten the family's window (for the ensemble: rollout)"
        )


def check_same_kind(older: Twin, spec: WorldSpec, family: str, model: JSON) -> None:
    """Raises InvalidOptionError unless a fit of this configuration can go on from `older`."""
    fitted = older.provenance.get("fit") or {}
    for name, theirs, ours in (
        ("family", older.family, family),
        ("model options", fitted.get("model"), model),
        ("observation space", older.spec.observation_space, spec.observation_space),
        ("action space", older.spec.action_space, spec.action_space),
    ):
        if theirs != ours:
            raise InvalidOptionError(
                f"a fit cannot go on from this twin: its {name} is {theirs}, this fit has {ours}. Take a twin of the "
                "same environment and configuration, or begin anew."
            )


def fit_notes(train: EncodedEpisodes, validation: EncodedEpisodes, spec: WorldSpec) -> list[str]:
    """What limits a twin of these episodes, warned of (FitWarning) and for its card."""
    pictures = _picture_notes(train)
    notes = [*pictures.values(), *column_notes(train, without=pictures)]
    labels = int(train.terminated.sum() + validation.terminated.sum())
    if spec.horizon is None:
        notes.append(
            "the data names no time limit: without a horizon nothing can be judged in the twin"
        )
    if labels == 0:
        notes.append("no episode ever terminated: the twin will not end one before its horizon")
    elif labels < FEW_TERMINALS:
        notes.append(
            f"only {labels} terminal labels (at least {FEW_TERMINALS} wanted): where episodes end is a guess"
        )
    for note in notes:
        warnings.warn(note, FitWarning, stacklevel=3)
    return notes


def _picture_notes(data: EncodedEpisodes) -> dict[str, str]:
    """By key: what looks like pictures and is not taken for any, and pictures of which a loss would see little.

    Said instead of what could be said of each of their numbers.
    """
    notes = {}
    for key, space in data.codec.keys.items():
        values = data.observations[key]
        if is_image(space):
            reach = int(values.max()) - int(values.min())
            if reach < _FAINT:
                notes[key] = (
                    f"{key}: its pixels differ by {reach} of 255 at most, which a picture's loss hardly sees. Spread "
                    "them over 0 to 255 (gymnasium.wrappers.TransformObservation), or declare the bounds that they "
                    "have: then they are learned as numbers."
                )
        elif isinstance(space, spaces.Box) and len(space.shape) > 2:
            notes[key] = (
                f"{key}: {space.shape} of {space.dtype} is learned as {values[0].numel():,} single numbers. Pictures "
                "are uint8 from 0 to 255, (height, width), (height, width, channels) or (channels, height, width)."
            )
    return notes
