"""Real vector environments with latent observations: one call of the world model encodes all environments."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from world_env.policies.latent_policy import LatentEncoder
from world_env.rng import derive_seeds
from world_env.simulation.state_filter import StateFilter
from world_env.spaces import copied, row_of
from world_env.spec import check_same_spaces


class LatentObservationVecEnv(VecEnvWrapper):
    """Vector version of `world_env.wrappers.latent_observation.LatentObservation`, with the same random numbers.

    venv: real environments of the encoder's twin.
    Raises SpaceMismatchError if the spaces differ from the twin's, and InvalidActionError for an action outside the
    action space. Both are raised before a real step is taken.
    """

    def __init__(self, venv: VecEnv, encoder: LatentEncoder) -> None:
        check_same_spaces(venv, encoder.twin.spec)
        self._filter, self._codec = StateFilter(encoder.twin, encoder.mode), encoder.twin.codec
        super().__init__(venv, observation_space=self._filter.view.space)
        self._set_seed(secrets.randbits(48))
        self._actions = np.zeros(0)

    def _set_seed(self, seed: int) -> None:
        self._streams = torch.arange(self.num_envs, dtype=torch.int64) + seed
        self._episodes = torch.zeros(self.num_envs, dtype=torch.int64)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the environments and the world model's noise: environment i gets seed + i."""
        if seed is not None:
            self._set_seed(seed)
        return self.venv.seed(seed)

    def reset(self) -> Any:
        """Reset all environments and return latents (N, F)."""
        seeds = self._next_seeds(np.arange(self.num_envs))
        return self._filter.start(self.venv.reset(), seeds)

    def step_async(self, actions: np.ndarray) -> None:
        """Start a step with the actions (N, ...)."""
        self._codec.encode_action(actions)
        self._actions = np.array(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Finish the step: observations and "terminal_observation" are latents."""
        observation, rewards, dones, infos = self.venv.step_wait()
        ended = np.flatnonzero(dones)
        reached = copied(observation)
        for row in ended:
            _put(reached, row, infos[row]["terminal_observation"])
        latent = self._filter.update(self._actions, reached, np.arange(self.num_envs))
        for row in ended:
            infos[row]["terminal_observation"] = copied(row_of(latent, int(row)))
        if len(ended):
            seeds = self._next_seeds(ended)
            _put(latent, ended, self._filter.start(row_of(observation, ended), seeds, ended))
        return latent, rewards, dones, infos

    def _next_seeds(self, rows: np.ndarray) -> list[int]:
        """Return the noise seeds of the next episodes of these environments."""
        index = torch.from_numpy(rows)
        seeds: list[int] = derive_seeds(self._streams[index], self._episodes[index]).tolist()
        self._episodes[index] += 1
        return seeds


def _put(observation: Any, rows: Any, value: Any) -> None:
    if isinstance(observation, dict):
        for key, part in observation.items():
            part[rows] = value[key]
    else:
        observation[rows] = value
