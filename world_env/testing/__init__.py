"""Public contract checks of world models and vector environments. A failed check raises `CheckError`."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.testing.model_checks import check_world_model
    from world_env.testing.vector_env_checks import check_vector_env

__all__ = [
    "check_vector_env",
    "check_world_model",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "model_checks": ("check_world_model",),
        "vector_env_checks": ("check_vector_env",),
    },
)
