"""Policy training with Stable-Baselines3, in a twin or in the real environment."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.rl.callbacks import milestones as milestones
    from world_env.rl.config import MANY_ROWS as MANY_ROWS, LearnConfig as LearnConfig

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
