"""Public contract checks of world models and vector environments. A failed check raises `CheckError`."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.testing.model_checks import check_world_model as check_world_model
    from world_env.testing.vector_env_checks import check_vector_env as check_vector_env

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
