"""Policy with faulty sensors."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from world_env.errors import InvalidOptionError
from world_env.policies.normalization import normalizers
from world_env.policies.protocol import Policy, episode_of

_STUCK_WIDTH = 2.0
"""Standard deviation of the values of stuck dimensions around the mean of the data, in scales of the data."""


class StuckSensorsPolicy(Policy):
    """Policy of which some observation dimensions are stuck at one value during an episode.

    The dimensions and their values, near the data of the policy, are drawn anew for each episode. Such a policy
    reaches states that neither random actions nor good policies reach: with a wrong cart position it still balances
    the pole and runs to the end of the track.

    policy: receives the corrupted observations. mean, scale: (D,) statistics of its data.
    share: share of the dimensions that are stuck, in (0, 1]; at least one dimension.
    Raises InvalidOptionError for a share out of range.
    """

    def __init__(self, policy: Policy, mean: np.ndarray, scale: np.ndarray, share: float) -> None:
        if not 0 < share <= 1:
            raise InvalidOptionError(f"share of stuck dimensions must be in (0, 1], got {share}")
        self._policy = policy
        self._mean, self._scale = np.asarray(mean, np.float64), np.asarray(scale, np.float64)
        self._count = math.ceil(share * self._mean.size)
        self._stuck: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @classmethod
    def of(cls, policy: Policy, model: Any, share: float) -> StuckSensorsPolicy:
        """Return `policy` with stuck sensors near the data statistics that `model` stores.

        Raises InvalidOptionError for a model without stored data statistics.
        """
        found = normalizers(model.policy)
        if not found:
            raise InvalidOptionError(
                "a policy with stuck sensors needs the data statistics of a policy that was trained with "
                "normalize=True on vector observations, and this one has none: train it so, or collect with the "
                "policy itself"
            )
        features = found[0]  # the same in all networks of a policy
        return cls(policy, features.mean.numpy(force=True), features.scale.numpy(force=True), share)

    def reset(self, env_indices: np.ndarray, seeds: Sequence[int]) -> None:
        """Start episodes: draw the stuck dimensions and their values."""
        self._policy.reset(env_indices, seeds)
        for index, seed in zip(env_indices, seeds, strict=True):
            rng = np.random.default_rng([int(seed), self._mean.size])
            stuck = rng.permutation(self._mean.size) < self._count
            self._stuck[int(index)] = (stuck, rng.normal(self._mean, _STUCK_WIDTH * self._scale))

    def act(self, observations: Any, env_indices: np.ndarray) -> np.ndarray:
        """Return the actions of the policy for observations (R, ...) with their stuck dimensions."""
        true = np.asarray(observations)
        stuck, values = (
            np.stack([episode_of(self._stuck, index)[part] for index in env_indices]).reshape(
                true.shape
            )
            for part in (0, 1)
        )
        return self._policy.act(np.where(stuck, values, true).astype(true.dtype), env_indices)

    def executed(self, actions: np.ndarray, env_indices: np.ndarray) -> None:
        """Report the executed actions to the policy."""
        self._policy.executed(actions, env_indices)

    def fork(self, n: int) -> StuckSensorsPolicy:
        """Return an independent copy for `n` environments in the episode of environment 0."""
        other = copy.copy(self)
        other._policy = self._policy.fork(n)
        other._stuck = dict.fromkeys(range(n), self._stuck[0]) if 0 in self._stuck else {}
        return other
