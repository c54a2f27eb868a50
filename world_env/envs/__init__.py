"""Twins as environments: `gymnasium.Env`, `gymnasium.vector.VectorEnv` and Stable-Baselines3 `VecEnv`."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.envs.env import WorldModelEnv as WorldModelEnv
    from world_env.envs.gymnasium_vector_to_sb3 import GymnasiumVectorToSB3 as GymnasiumVectorToSB3
    from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv as WorldModelSB3VecEnv
    from world_env.envs.vector_env import WorldModelVectorEnv as WorldModelVectorEnv

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
