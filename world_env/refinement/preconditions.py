"""Checks of a refinement's settings, before the first real step."""

from __future__ import annotations

from world_env.errors import InvalidOptionError, StageError, TooLittleDataError
from world_env.fitting.preconditions import MIN_STEPS, check_family
from world_env.policies.algorithms import algorithm_class, check_algo_options
from world_env.policies.config import policies_of
from world_env.policies.saved_policy import policy_card
from world_env.refinement.config import ROLES, RefineConfig, check_actions
from world_env.rl.config import LearnConfig
from world_env.rl.learn import check_counts_from_zero
from world_env.spec import EnvConfig, WorldSpec


def check_settings(config: RefineConfig, spec: WorldSpec) -> None:
    """Check what would stop a later stage, so that the error comes before a real step.

    Raises InvalidOptionError, SpaceMismatchError, TooLittleDataError, UnknownFamilyError.
    """
    check_counts_from_zero(spec.action_space)
    check_actions(config.learn.algo, spec)
    if config.rounds > 1:
        check_time_limit(config.real, spec, otherwise=", or run one round")
    if config.steps_after(0) < MIN_STEPS:
        raise TooLittleDataError(
            f"the first round has {config.steps_after(0)} real steps, but a fit needs at least {MIN_STEPS}: give more "
            "steps, or fewer rounds"
        )
    check_family(config.fit)
    _check_algorithm(config.learn)
    for name in config.explorers:
        _check_algorithm(config.explorer(name, 0))
    for exploration in (config.exploration, config.later_exploration)[: config.rounds]:
        for path in policies_of(exploration) - {*ROLES, *config.explorers}:
            _check_folder(path, (*ROLES, *config.explorers))


def _check_folder(path: str, names: tuple[str, ...]) -> None:
    try:
        policy_card(path)
    except StageError as error:
        raise InvalidOptionError(
            f"the exploration names the policy {path!r}, expected the folder of a policy or, in later_exploration, one "
            f"of {', '.join(names)}: {error}"
        ) from error


def check_time_limit(real: EnvConfig, spec: WorldSpec, *, otherwise: str = "") -> None:
    """Raise InvalidOptionError for an environment without a time limit, whose returns cannot be compared.

    otherwise: end of the message, another way out.
    """
    if spec.horizon is None:
        raise InvalidOptionError(
            f"{real.env_id} has no time limit, so learned and real returns cannot be compared: set a time limit where "
            "it is registered (max_episode_steps=100) or by --env-kwargs '{\"max_episode_steps\": 100}'"
            + otherwise
        )


def _check_algorithm(learning: LearnConfig) -> None:
    check_algo_options(algorithm_class(learning.algo), learning.algo_kwargs)
