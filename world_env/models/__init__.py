"""World models: the protocol, the registry of families, and the built-in families."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.models.base import (
        Prediction as Prediction,
        TrainableWorldModel as TrainableWorldModel,
        WorldModel as WorldModel,
    )
    from world_env.models.registry import (
        FAMILIES as FAMILIES,
        PluginWarning as PluginWarning,
        list_families as list_families,
        load_family as load_family,
        register_world_model as register_world_model,
    )
    from world_env.spec import encoded_shapes as encoded_shapes

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
