"""Policies: save and load them, normalise their observations, update them faster."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.policies.saved_policy import load_policy, save_policy

__all__ = [
    "load_policy",
    "save_policy",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "saved_policy": (
            "load_policy",
            "save_policy",
        ),
    },
)
