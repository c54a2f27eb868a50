"""Policy training with Stable-Baselines3, in a twin or in the real environment."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.rl.callbacks import milestones as milestones
    from world_env.rl.config import (
        MANY_ENVS as MANY_ENVS,
        LearnConfig as LearnConfig,
        RealTrainingConfig as RealTrainingConfig,
        TwinTrainingConfig as TwinTrainingConfig,
    )
    from world_env.rl.svg import SVG as SVG

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
