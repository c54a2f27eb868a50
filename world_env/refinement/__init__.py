"""Repeated collection, fitting and policy training."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.refinement.config import RefineConfig
    from world_env.refinement.presets import preset
    from world_env.refinement.rounds import Round, chosen_until, episodes_until

__all__ = [
    "RefineConfig",
    "Round",
    "chosen_until",
    "episodes_until",
    "preset",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "config": ("RefineConfig",),
        "presets": ("preset",),
        "rounds": (
            "Round",
            "chosen_until",
            "episodes_until",
        ),
    },
)
