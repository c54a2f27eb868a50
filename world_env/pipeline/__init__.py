"""The whole pipeline as one call."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.pipeline.build import Built as Built
    from world_env.pipeline.config import BuildConfig as BuildConfig
    from world_env.pipeline.preconditions import check_before_steps as check_before_steps
    from world_env.pipeline.refinement_config import (
        final_ppo as final_ppo,
        refine_config as refine_config,
    )
    from world_env.pipeline.step_plan import planned_steps as planned_steps

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
