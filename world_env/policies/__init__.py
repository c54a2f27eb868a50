"""Policies: the protocol, its implementations, saved policies, faster updates of Stable-Baselines3."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.policies.config import (
        CountBasedExploration as CountBasedExploration,
        ExplorationConfig as ExplorationConfig,
        HeldExploration as HeldExploration,
        MixtureExploration as MixtureExploration,
        PolicyExploration as PolicyExploration,
        RandomExploration as RandomExploration,
        StuckSensorsExploration as StuckSensorsExploration,
        random_and_held as random_and_held,
    )
    from world_env.policies.count_based_policy import CountBasedPolicy as CountBasedPolicy
    from world_env.policies.function_policy import FunctionPolicy as FunctionPolicy
    from world_env.policies.held_policy import HeldPolicy as HeldPolicy
    from world_env.policies.loading import (
        as_policy as as_policy,
        register_policy_kind as register_policy_kind,
    )
    from world_env.policies.mixture_policy import MixturePolicy as MixturePolicy
    from world_env.policies.protocol import Policy as Policy
    from world_env.policies.random_policy import (
        EpsilonRandomPolicy as EpsilonRandomPolicy,
        RandomPolicy as RandomPolicy,
    )
    from world_env.policies.saved_policy import (
        PolicyCard as PolicyCard,
        load_policy as load_policy,
        save_policy as save_policy,
    )
    from world_env.policies.sb3_policy import SB3Policy as SB3Policy
    from world_env.policies.stuck_sensors_policy import StuckSensorsPolicy as StuckSensorsPolicy

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
