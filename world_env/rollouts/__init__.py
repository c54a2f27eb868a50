"""Rollouts of a policy in the real environment and in a twin."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.rollouts.actors import Actor, policy_actor, random_actor, scripted_actor
    from world_env.rollouts.learned import run_learned
    from world_env.rollouts.real import run_real
    from world_env.rollouts.returns import Returns, bootstrap_mean

__all__ = [
    "Actor",
    "Returns",
    "bootstrap_mean",
    "policy_actor",
    "random_actor",
    "run_learned",
    "run_real",
    "scripted_actor",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "actors": (
            "Actor",
            "policy_actor",
            "random_actor",
            "scripted_actor",
        ),
        "learned": ("run_learned",),
        "real": ("run_real",),
        "returns": (
            "Returns",
            "bootstrap_mean",
        ),
    },
)
