"""The whole pipeline as one call."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.pipeline.build import Built as Built
    from world_env.pipeline.config import BuildConfig as BuildConfig

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
