"""Probabilistic ensemble of neural networks for vector observations."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.models.ensemble.config import EnsembleConfig as EnsembleConfig
    from world_env.models.ensemble.model import EnsembleWorldModel as EnsembleWorldModel

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
