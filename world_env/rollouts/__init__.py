"""Rollouts of a policy in the real environment and in a twin."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.rollouts.actors import (
        Actor as Actor,
        policy_actor as policy_actor,
        random_actor as random_actor,
        scripted_actor as scripted_actor,
    )
    from world_env.rollouts.learned import run_learned as run_learned
    from world_env.rollouts.real import run_real as run_real
    from world_env.rollouts.returns import Returns as Returns, bootstrap_mean as bootstrap_mean

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
