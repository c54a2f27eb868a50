"""Mixture of policies, one of them for each whole episode."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from world_env.errors import InvalidOptionError
from world_env.policies.protocol import Policy, episode_of
from world_env.spaces import row_of


class MixturePolicy(Policy):
    """Mixture of policies, one of them for each whole episode.

    weights: shares of the executed steps, not of the episodes: policies with short episodes play more of them.
    """

    def __init__(self, policies: Sequence[Policy], weights: Sequence[float]) -> None:
        total = sum(weights)
        if not policies or len(policies) != len(weights) or min(weights) < 0 or not total > 0:
            raise InvalidOptionError(
                f"a mixture of {len(policies)} policies got the weights {list(weights)}: expected one weight >= 0 for "
                "each, at least one of them above 0"
            )
        self._policies = list(policies)
        self._shares = np.asarray(weights, np.float64) / total
        self._steps = np.zeros(len(policies))
        self._chosen: dict[int, int] = {}

    def reset(self, env_indices: np.ndarray, seeds: Sequence[int]) -> None:
        """Start each episode with the policy furthest below its share of the steps, or with a random one.

        The random choice applies while no policy is at least half a step below its share.
        """
        for index, seed in zip(env_indices, seeds, strict=True):
            behind = self._shares * self._steps.sum() - self._steps
            rng = np.random.default_rng([int(seed), len(self._policies)])
            drawn = rng.choice(len(self._policies), p=self._shares)
            chosen = int(behind.argmax() if behind.max() >= 0.5 else drawn)
            self._chosen[int(index)] = chosen
            self._policies[chosen].reset(np.array([index]), [seed])

    def act(self, observations: Any, env_indices: np.ndarray) -> np.ndarray:
        """Return the actions of the policies of these episodes."""
        return np.stack([
            self._of(index).act(row_of(observations, np.array([i])), np.array([index]))[0]
            for i, index in enumerate(env_indices)
        ])  # fmt: skip

    def executed(self, actions: np.ndarray, env_indices: np.ndarray) -> None:
        """Report the executed actions; they count as steps of the policies of these episodes."""
        for i, index in enumerate(env_indices):
            self._steps[episode_of(self._chosen, index)] += 1
            self._of(index).executed(actions[[i]], np.array([index]))

    @property
    def uses_observations(self) -> bool:
        """Whether one of the policies needs the observations of stored episodes."""
        return any(policy.uses_observations for policy in self._policies)

    def rewarded(self, rewards: np.ndarray, env_indices: np.ndarray) -> None:
        """Report the rewards to the policies of these episodes."""
        for i, index in enumerate(env_indices):
            self._of(index).rewarded(rewards[[i]], np.array([index]))

    def replay(self, observations: Any, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Take a stored episode as one of the policy that `reset` chose for it."""
        chosen = episode_of(self._chosen, 0)
        self._steps[chosen] += len(actions)
        self._policies[chosen].replay(observations, actions, rewards)

    def fork(self, n: int) -> MixturePolicy:
        """Return an independent copy for `n` environments in the episode of environment 0."""
        other = copy.copy(self)
        other._policies = [policy.fork(n) for policy in self._policies]
        other._steps = self._steps.copy()
        other._chosen = dict.fromkeys(range(n), self._chosen[0]) if 0 in self._chosen else {}
        return other

    def _of(self, index: int) -> Policy:
        return self._policies[episode_of(self._chosen, index)]
