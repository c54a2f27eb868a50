"""Real worlds that are stepped together, as a twin's model takes them in: all rows in one call of it."""

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


class LatentRows(VecEnvWrapper):
    """`world_env.wrappers.latent_observation.LatentObservation` around each of N worlds, with the same draws, in a fraction of the time.

    Raises SpaceMismatchError for worlds that the twin is not of, InvalidActionError for an action that they do not
    have, before a real step is spent.
    """

    def __init__(self, venv: VecEnv, encoder: LatentEncoder) -> None:
        check_same_spaces(venv, encoder.twin.spec)
        self._filter, self._codec = StateFilter(encoder.twin, encoder.mode), encoder.twin.codec
        super().__init__(venv, observation_space=self._filter.view.space)
        self._begin_counting(secrets.randbits(48))
        self._taken = np.zeros(0)

    def _begin_counting(self, seed: int) -> None:
        self._streams = torch.arange(self.num_envs, dtype=torch.int64) + seed
        self._episodes = torch.zeros(self.num_envs, dtype=torch.int64)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Of the worlds, and of the model's draws: row i has seed + i."""
        if seed is not None:
            self._begin_counting(seed)
        return self.venv.seed(seed)

    def reset(self) -> Any:
        """Begin new episodes."""
        seeds = self._next(np.arange(self.num_envs))
        return self._filter.begin(self.venv.reset(), seeds)

    def step_async(self, actions: np.ndarray) -> None:
        """Hand out the actions (N, ...)."""
        self._codec.encode_action(actions)
        self._taken = np.array(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """As the wrapped worlds, with latents; those of "terminal_observation" too."""
        observation, rewards, dones, infos = self.venv.step_wait()
        ended = np.flatnonzero(dones)
        seen = copied(observation)
        for row in ended:
            _put(seen, row, infos[row]["terminal_observation"])
        latent = self._filter.go_on(self._taken, seen, np.arange(self.num_envs))
        for row in ended:
            infos[row]["terminal_observation"] = copied(row_of(latent, int(row)))
        if len(ended):
            begun = self._filter.begin(row_of(observation, ended), self._next(ended), ended)
            _put(latent, ended, begun)
        return latent, rewards, dones, infos

    def _next(self, rows: np.ndarray) -> list[int]:
        """Seeds of the rows' next episodes."""
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
