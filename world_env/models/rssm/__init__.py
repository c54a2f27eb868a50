"""Recurrent state-space model for images, vectors and partially observed environments."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.models.rssm.config import RssmConfig as RssmConfig
    from world_env.models.rssm.model import RssmWorldModel as RssmWorldModel

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
