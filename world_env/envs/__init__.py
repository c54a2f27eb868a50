"""Twins as environments: `gymnasium.Env`, `gymnasium.vector.VectorEnv` and Stable-Baselines3 `VecEnv`."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.envs.env import WorldModelEnv
    from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
    from world_env.envs.vector_env import WorldModelVectorEnv

__all__ = [
    "WorldModelEnv",
    "WorldModelSB3VecEnv",
    "WorldModelVectorEnv",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "env": ("WorldModelEnv",),
        "sb3_vec_env": ("WorldModelSB3VecEnv",),
        "vector_env": ("WorldModelVectorEnv",),
    },
)
