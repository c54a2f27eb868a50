"""Exploration: the policy that acts in the real environment while data is collected."""

from __future__ import annotations

from world_env.errors import InvalidOptionError
from world_env.policies.config import (
    CountBasedExploration,
    ExplorationConfig,
    HeldExploration,
    MixtureExploration,
    PolicyExploration,
    StuckSensorsExploration,
    check_exploration,
)
from world_env.policies.count_based_policy import CountBasedPolicy
from world_env.policies.held_policy import HeldPolicy
from world_env.policies.loading import as_policy, is_sb3_folder, trained_policy
from world_env.policies.mixture_policy import MixturePolicy
from world_env.policies.protocol import Policy
from world_env.policies.random_policy import RandomPolicy
from world_env.policies.saved_policy import load_policy, policy_card
from world_env.policies.stuck_sensors_policy import StuckSensorsPolicy
from world_env.spec import WorldSpec


def make_exploration(config: ExplorationConfig, spec: WorldSpec) -> Policy:
    """Make the policy of an exploration. Raises InvalidOptionError, and what `load_policy` raises."""
    check_exploration(config)
    space = spec.action_space
    if isinstance(config, HeldExploration):
        return HeldPolicy(space, config.steps)
    if isinstance(config, CountBasedExploration):
        return CountBasedPolicy(spec)
    if isinstance(config, PolicyExploration):
        _check_may_collect(config.path)
        return as_policy(config.path, spec, deterministic=config.deterministic)
    if isinstance(config, StuckSensorsExploration):
        _check_may_collect(config.path)
        model = load_policy(config.path, expect=spec)
        played = trained_policy(model, deterministic=False)
        return StuckSensorsPolicy.of(played, model, config.share)
    if isinstance(config, MixtureExploration):
        return MixturePolicy(
            [make_exploration(part, spec) for part in config.parts], config.weights
        )
    return RandomPolicy(space)


def _check_may_collect(folder: str) -> None:
    """Raise InvalidOptionError for a policy of a pool that evaluates twins."""
    # Other kinds of policies have cards of their own.
    if is_sb3_folder(folder) and policy_card(folder).evaluates_twins:
        raise InvalidOptionError(
            f"the policy {folder} belongs to a policy pool that evaluates twins: a twin fitted to data of this policy "
            "would get results that are too good. Collect with another policy."
        )
