"""Fit world models to episodes."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.fitting.config import FitConfig, updates_for
    from world_env.fitting.fit import fit_episodes
    from world_env.fitting.preconditions import FitWarning

__all__ = [
    "FitConfig",
    "FitWarning",
    "fit_episodes",
    "updates_for",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "config": (
            "FitConfig",
            "updates_for",
        ),
        "fit": ("fit_episodes",),
        "preconditions": ("FitWarning",),
    },
)
