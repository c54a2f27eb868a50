"""The whole pipeline as one call."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.pipeline.build import Built
    from world_env.pipeline.config import BuildConfig

__all__ = [
    "BuildConfig",
    "Built",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "build": ("Built",),
        "config": ("BuildConfig",),
    },
)
