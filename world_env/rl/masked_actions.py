"""Environments with the method `action_masks`, whose masks are a part of the observation."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from world_env.envs.action_masks import DEFAULT_KEY, check_mask_key, masks_of
from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
from world_env.rl.config import LearnConfig

_METHOD = "action_masks"


class MaskedActions(VecEnvWrapper):
    """Environments, learned or real, with the action masks of their last observations.

    venv: environments with Dict observations. key: of the masks.
    Raises SpaceMismatchError unless the key holds one number for each choice of an action.
    """

    def __init__(self, venv: VecEnv, key: str) -> None:
        check_mask_key(venv.observation_space, venv.action_space, key)
        super().__init__(venv)
        self._key = key
        self._masks = np.zeros(0)

    def reset(self) -> Any:
        """Reset all environments."""
        observation = self.venv.reset()
        self._masks = masks_of(observation, self._key)
        return observation

    def step_wait(self) -> Any:
        """Finish the step."""
        observation, rewards, dones, infos = self.venv.step_wait()
        self._masks = masks_of(observation, self._key)
        return observation, rewards, dones, infos

    def action_masks(self) -> np.ndarray:
        """Return the masks of valid actions, (N, choices) bool."""
        return self._masks.copy()

    def has_attr(self, attr_name: str) -> bool:
        """Whether all environments have an attribute or a method."""
        return attr_name == _METHOD or self.venv.has_attr(attr_name)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute, once per selected environment."""
        if attr_name == _METHOD:
            return [self.action_masks for _ in self._get_indices(indices)]
        return self.venv.get_attr(attr_name, indices)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the selected environments."""
        if method_name == _METHOD:
            return [self._masks[row] for row in self._get_indices(indices)]
        return self.venv.env_method(method_name, *method_args, indices=indices, **method_kwargs)


def masked(env: VecEnv, config: LearnConfig) -> VecEnv:
    """Return environments with the action masks that MaskablePPO needs; the same ones for other algorithms.

    Real environments whose observations have no masks may have a method `action_masks` instead.
    Raises SpaceMismatchError for environments without masks.
    """
    if config.algo != "MaskablePPO":
        return env
    key, space = config.action_mask_key or DEFAULT_KEY, env.observation_space
    learned = isinstance(env.unwrapped, WorldModelSB3VecEnv)
    known = isinstance(space, spaces.Dict) and key in space.spaces
    if not learned and not known and env.has_attr(_METHOD):
        return env
    return MaskedActions(env, key)
