"""Collection of episodes in a real environment."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.collection.collect import play as play
    from world_env.collection.config import CollectConfig as CollectConfig

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
