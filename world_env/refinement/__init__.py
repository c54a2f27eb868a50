"""Repeated collection, fitting and policy training."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.refinement.config import RefineConfig as RefineConfig
    from world_env.refinement.policy_selection import predicted_return as predicted_return
    from world_env.refinement.presets import given as given, preset as preset
    from world_env.refinement.rounds import (
        Round as Round,
        episodes_of_rounds as episodes_of_rounds,
        selected_policy as selected_policy,
    )

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
