"""RGB frames of observations."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.rendering.renderer import Renderer as Renderer

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
