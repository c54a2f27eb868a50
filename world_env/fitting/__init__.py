"""Fit world models to episodes."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.fitting.config import (
        FitConfig as FitConfig,
        gradient_steps_for as gradient_steps_for,
    )
    from world_env.fitting.fit import fit_episodes as fit_episodes
    from world_env.fitting.preconditions import FitWarning as FitWarning

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
