"""Repeated collection, fitting and policy training."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.refinement.config import RefineConfig
    from world_env.refinement.presets import preset
    from world_env.refinement.rounds import Round, episodes_of_rounds, selected_policy

__all__ = [
    "RefineConfig",
    "Round",
    "episodes_of_rounds",
    "preset",
    "selected_policy",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "config": ("RefineConfig",),
        "presets": ("preset",),
        "rounds": (
            "Round",
            "selected_policy",
            "episodes_of_rounds",
        ),
    },
)
