"""World models: the protocol, the registry of families, and the built-in families."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.models.base import Prediction, TrainableWorldModel, WorldModel
    from world_env.models.registry import FAMILIES, load_family, register_world_model

__all__ = [
    "FAMILIES",
    "Prediction",
    "TrainableWorldModel",
    "WorldModel",
    "load_family",
    "register_world_model",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "base": (
            "Prediction",
            "TrainableWorldModel",
            "WorldModel",
        ),
        "registry": (
            "FAMILIES",
            "load_family",
            "register_world_model",
        ),
    },
)
