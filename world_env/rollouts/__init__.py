"""Rollouts of a policy in the real environment and in a twin."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.rollouts.learned import (
        LearnedStep as LearnedStep,
        run_learned as run_learned,
        steps_in_twin as steps_in_twin,
    )
    from world_env.rollouts.real import run_real as run_real
    from world_env.rollouts.returns import (
        Returns as Returns,
        bootstrap_mean as bootstrap_mean,
        mean_interval as mean_interval,
    )

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
