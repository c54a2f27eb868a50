"""Random actions, alone or in place of some actions of another policy."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from world_env.errors import InvalidOptionError
from world_env.policies.protocol import EpisodicPolicy, Policy, episode_of


class RandomPolicy(EpisodicPolicy[spaces.Space[Any]]):
    """Uniform random actions of a space, drawn anew at each step."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__()
        self._space = space

    def begin(self, seed: int) -> spaces.Space[Any]:
        """Return a seeded copy of the space: the random numbers of the environment's own space do not change."""
        sampler = copy.deepcopy(self._space)
        sampler.seed(seed)
        return sampler

    def act_one(self, observation: Any, episode: spaces.Space[Any]) -> Any:
        """Sample an action."""
        return episode.sample()


class EpsilonRandomPolicy(Policy):
    """Another policy whose action is replaced by a uniform random one with a fixed probability.

    probability: of a random action, in [0, 1].
    """

    def __init__(self, policy: Policy, space: spaces.Space[Any], probability: float) -> None:
        if not 0.0 <= probability <= 1.0:
            raise InvalidOptionError(f"probability must be in [0, 1], got {probability}")
        self._policy, self._random = policy, RandomPolicy(space)
        self._probability = probability
        self._generators: dict[int, np.random.Generator] = {}

    def reset(self, env_indices: np.ndarray, seeds: Sequence[int]) -> None:
        """Start an episode of both policies."""
        self._policy.reset(env_indices, seeds)
        self._random.reset(env_indices, seeds)
        for index, seed in zip(env_indices, seeds, strict=True):
            self._generators[int(index)] = np.random.default_rng([int(seed), 1])

    def act(self, observations: Any, env_indices: np.ndarray) -> np.ndarray:
        """Return actions of the policy, some of them replaced."""
        own = self._policy.act(observations, env_indices)
        other = self._random.act(observations, env_indices)
        draws = [episode_of(self._generators, index).random() for index in env_indices]
        replaced = np.array(draws) < self._probability
        return np.where(replaced.reshape(-1, *[1] * (own.ndim - 1)), other, own)

    def executed(self, actions: np.ndarray, env_indices: np.ndarray) -> None:
        """Report the executed actions to the policy."""
        self._policy.executed(actions, env_indices)

    def rewarded(self, rewards: np.ndarray, env_indices: np.ndarray) -> None:
        """Report the rewards to the policy."""
        self._policy.rewarded(rewards, env_indices)

    def fork(self, n: int) -> EpsilonRandomPolicy:
        """Return an independent copy for `n` environments in the episode of environment 0."""
        other = copy.copy(self)
        other._policy, other._random = self._policy.fork(n), self._random.fork(n)
        running = self._generators.get(0)
        other._generators = {} if running is None else {i: copy.deepcopy(running) for i in range(n)}
        return other
