"""Recurrent state-space model for images, vectors and partially observed environments."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.models.rssm.config import LargeRssmConfig, RssmConfig
    from world_env.models.rssm.model import RssmWorldModel

__all__ = [
    "LargeRssmConfig",
    "RssmConfig",
    "RssmWorldModel",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "config": (
            "LargeRssmConfig",
            "RssmConfig",
        ),
        "model": ("RssmWorldModel",),
    },
)
