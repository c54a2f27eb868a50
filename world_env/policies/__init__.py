"""Policies: save and load them, normalise their observations, update them faster."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.policies.config import (
        ExplorationConfig as ExplorationConfig,
        HeldExploration as HeldExploration,
        MixtureExploration as MixtureExploration,
        PolicyExploration as PolicyExploration,
        RandomExploration as RandomExploration,
        StuckSensorsExploration as StuckSensorsExploration,
        random_and_held as random_and_held,
    )
    from world_env.policies.saved_policy import (
        load_policy as load_policy,
        save_policy as save_policy,
    )

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
