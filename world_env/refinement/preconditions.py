"""Checks of a refinement's settings, before the first real step."""

from __future__ import annotations

import math
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

from world_env.collection.exploration import make_exploration
from world_env.errors import InvalidOptionError, StageError, TooLittleDataError
from world_env.fitting.config import FitConfig
from world_env.fitting.preconditions import MIN_STEPS, FitWarning, check_family
from world_env.policies.algorithms import check_algo_options
from world_env.policies.config import ExplorationConfig, MixtureExploration, policies_of
from world_env.real.real_env import spec_of
from world_env.refinement.config import ROLES, RefineConfig, check_actions
from world_env.rl.algorithms import training_class
from world_env.rl.hindsight import check_hindsight
from world_env.rl.supported_spaces import check_training_in_twin
from world_env.spaces import observation_spaces
from world_env.spec import WorldSpec
from world_env.twin.twin import KnownFunction

_MIN_FREE_BYTES = 50_000_000
"""Free space of the disk below which no run starts: a twin and its policies need about as much."""


def checked_spec(config: RefineConfig, reward_fn: KnownFunction | None = None) -> WorldSpec:
    """Make the real environment once, without a real step, check all settings against it and return its spec.

    reward_fn: known rewards of the twins.
    Raises what `spec_of` and `check_settings` raise.
    """
    spec = spec_of(config.real)
    check_settings(config, spec, reward_fn)
    return spec


def check_folder(out: Path, spec: WorldSpec, steps: int) -> None:
    """Check that the results can be written to a folder. Warns where the data may not fit on the disk.

    Raises StageError if the folder cannot be written, or the disk is full.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
        free = shutil.disk_usage(out).free
    except OSError as error:
        raise StageError(
            f"cannot write to {out}: {error}. Choose a folder that can be written."
        ) from error
    if free < _MIN_FREE_BYTES:
        raise StageError(
            f"the disk of {out} has {free / 1e6:.0f} MB left, expected at least {_MIN_FREE_BYTES / 1e6:.0f} MB: free "
            "some space, or choose another folder"
        )
    needed = steps * sum(
        math.prod(space.shape or ()) * np.dtype(space.dtype or np.int64).itemsize
        for space in (*observation_spaces(spec.observation_space).values(), spec.action_space)
    )
    if free < needed:
        warnings.warn(
            f"{steps:,} steps of this environment are up to {needed / 1e6:,.0f} MB, but the disk of {out} has "
            f"{free / 1e6:,.0f} MB left",
            FitWarning,
            stacklevel=3,
        )


def check_settings(
    config: RefineConfig, spec: WorldSpec, reward_fn: KnownFunction | None = None
) -> None:
    """Check what would stop a later stage, so that the error comes before a real step.

    Raises InvalidOptionError, SpaceMismatchError, TooLittleDataError, UnknownFamilyError, NoGoalRewardError.
    """
    if config.steps_after(0) < MIN_STEPS:
        fewer = ", or fewer rounds" if config.rounds > 1 else ""
        raise TooLittleDataError(
            f"the first round has {config.steps_after(0)} real steps, but a fit needs at least {MIN_STEPS}: give more "
            f"steps{fewer}"
        )
    check_model(config.fit, spec)
    for learning in (config.learn, *(config.explorer(name, 0) for name in config.explorers)):
        check_actions(learning.algo, spec)
        check_training_in_twin(learning, spec)
        check_algo_options(training_class(learning.algo), learning.algo_kwargs)
        check_hindsight(learning.algo_kwargs, spec.observation_space, reward_fn)
    for exploration in (config.exploration, config.later_exploration)[: config.rounds]:
        _check_policies(exploration, (*ROLES, *config.explorers), spec)


def _check_policies(config: ExplorationConfig, names: tuple[str, ...], spec: WorldSpec) -> None:
    """Load the policies of an exploration, except those that exist in later rounds only."""
    if isinstance(config, MixtureExploration):
        for part in config.parts:
            _check_policies(part, names, spec)
    elif not policies_of(config) & set(names):
        try:
            make_exploration(config, spec)
        except StageError as error:
            raise InvalidOptionError(
                f"the exploration names the policy {min(policies_of(config))!r}, expected the folder of a policy or, "
                f"in later_exploration, one of {', '.join(names)}: {error}"
            ) from error


def check_model(config: FitConfig, spec: WorldSpec) -> None:
    """Make the model of a fit, as a trial.

    Raises UnsupportedSpaceError for spaces that its family does not support, such as images, and what
    `check_family` raises.
    """
    model_class, model_config = check_family(config)
    with torch.random.fork_rng(devices=[]):
        model_class(spec, model_config)
