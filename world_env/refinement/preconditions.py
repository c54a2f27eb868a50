"""Checks of a refinement's settings, before the first real step."""

from __future__ import annotations

import dataclasses
import re

from world_env.collection.exploration import parse_exploration
from world_env.errors import InvalidOptionError, TooLittleDataError
from world_env.fitting.config import FitConfig
from world_env.fitting.preconditions import MIN_STEPS
from world_env.models.base import TrainableWorldModel
from world_env.models.registry import load_family
from world_env.policies.algorithms import algorithm_class, check_algo_options
from world_env.refinement.config import RefineConfig, check_actions
from world_env.rl.config import LearnConfig
from world_env.rl.learn import check_counts_from_zero
from world_env.spec import WorldSpec

_FOLDER = re.compile(r"(?:policy|greedy|stuck:[^:+]*):\{\w+\}")


def check_settings(config: RefineConfig, spec: WorldSpec) -> None:
    """Check what would stop a later stage, so that the error comes before a real step.

    Raises InvalidOptionError, SpaceMismatchError, TooLittleDataError, UnknownFamilyError.
    """
    check_counts_from_zero(spec.action_space)
    check_actions(config.learn.algo, spec)
    if spec.horizon is None and config.rounds > 1:
        raise InvalidOptionError(
            f"{config.real.env_id} has no time limit, so policies cannot be compared in its twins: set a time "
            'limit where it is registered (max_episode_steps=100) or by --kwargs \'{"max_episode_steps": '
            "100}', or run "
            "one round"
        )
    if config.steps_after(0) < MIN_STEPS:
        raise TooLittleDataError(
            f"the first round has {config.steps_after(0)} real steps, but a fit needs at least {MIN_STEPS}: give more "
            "steps, or fewer rounds"
        )
    _check_model(config.fit)
    _check_algorithm(config.learn)
    for name in config.explorers:
        _check_algorithm(config.explorer(name, 0))
    if config.rounds > 1:
        parse_exploration(_FOLDER.sub("random", config.later_exploration), spec)


def _check_model(fit: FitConfig) -> None:
    model_class, config_class = load_family(fit.family)
    try:
        config_class(**fit.model)
    except (TypeError, ValueError) as error:
        names = [item.name for item in dataclasses.fields(config_class)]
        raise InvalidOptionError(
            f"model options {fit.model} do not fit the family {fit.family!r} ({error}): it has {names}"
        ) from error
    if not issubclass(model_class, TrainableWorldModel):
        raise InvalidOptionError(
            f"family {fit.family!r} cannot be trained: it is no TrainableWorldModel"
        )


def _check_algorithm(learning: LearnConfig) -> None:
    check_algo_options(algorithm_class(learning.algo), learning.options)
