"""A world model with all that is needed to step it, as one folder on disk."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.twin.external_weights import ExternalWeights as ExternalWeights
    from world_env.twin.goals import GoalReward as GoalReward
    from world_env.twin.serialization import find_twin as find_twin, list_twins as list_twins
    from world_env.twin.twin import KnownFunction as KnownFunction, Twin as Twin

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
