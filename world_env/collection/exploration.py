"""Exploration: policies that act in the real environment while data is collected."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces

from world_env.errors import InvalidOptionError
from world_env.policies.config import (
    ExplorationConfig,
    HeldExploration,
    MixtureExploration,
    PolicyExploration,
    StuckSensorsExploration,
    check_exploration,
)
from world_env.policies.correlated_noise import CorrelatedNoise
from world_env.policies.latent_policy import encoder_of
from world_env.policies.normalization import NormalizedFeatures
from world_env.policies.protocol import Exploration
from world_env.policies.saved_policy import CLOSED, load_policy, policy_card
from world_env.simulation.state_filter import StateFilter
from world_env.spaces import one_row, row_of
from world_env.spec import WorldSpec

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm


_STUCK_WIDTH = 2.0
"""Standard deviation of the values of stuck dimensions around the mean of the data, in scales of the data."""


class RandomPolicy(Exploration):
    """Uniform random actions, drawn anew at each step."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        # A copy: seeding must not change the random generator of the environment's own space.
        self._space = copy.deepcopy(space)

    def reset(self, seed: int) -> None:
        """Start an episode."""
        self._space.seed(seed)

    def act(self, observation: Any) -> Any:
        """Sample an action."""
        return self._space.sample()


class Mixture(Exploration):
    """Mixture of explorations, one of them for each whole episode.

    The weights are shares of the steps, not of the episodes: explorations with short episodes play more of them.
    """

    def __init__(self, parts: Sequence[Exploration], weights: Sequence[float]) -> None:
        total = sum(weights)
        if not parts or len(parts) != len(weights) or min(weights) < 0 or not total > 0:
            raise InvalidOptionError(
                f"a mixture of {len(parts)} explorations got the weights {list(weights)}: expected one weight >= 0 for "
                "each, at least one of them above 0"
            )
        self._parts = list(parts)
        self._chances = np.asarray(weights, np.float64) / total
        self._steps = np.zeros(len(parts))
        self._current = 0

    def reset(self, seed: int) -> None:
        """Start an episode with the exploration furthest below its share of the steps, or with a random one.

        The random choice applies while no exploration is at least half a step below its share.
        """
        behind = self._chances * self._steps.sum() - self._steps
        rng = np.random.default_rng([seed, len(self._parts)])
        drawn = rng.choice(len(self._parts), p=self._chances)
        self._current = int(behind.argmax() if behind.max() >= 0.5 else drawn)
        self._parts[self._current].reset(seed)

    def act(self, observation: Any) -> Any:
        """Action of the current exploration."""
        self._steps[self._current] += 1
        return self._parts[self._current].act(observation)

    def skip(self, seed: int, steps: int) -> None:
        """Account for an episode of `steps` steps that was played before a resume."""
        self.reset(seed)
        self._steps[self._current] += steps


class SavedPolicy(Exploration):
    """Trained Stable-Baselines3 policy with its own random generator.

    deterministic: use the deterministic actions instead of sampled ones.
    """

    def __init__(self, model: BaseAlgorithm, *, deterministic: bool = False) -> None:
        self._policy, encoder = model.policy, encoder_of(model)
        self._filter = None if encoder is None else StateFilter(encoder.twin, encoder.mode)
        self._last: Any = None
        self._seed = 0
        self._sde = bool(getattr(model, "use_sde", False))
        self._deterministic = deterministic
        self._memory: Any = None
        self._first = True
        self._noise = torch.Generator().manual_seed(0).get_state()

    def reset(self, seed: int) -> None:
        """Start an episode: reseed the noise, clear the recurrent state."""
        self._noise = torch.Generator().manual_seed(seed).get_state()
        self._memory, self._first = None, True
        self._seed = seed
        if self._sde:
            self._with_own_noise(self._policy.reset_noise)

    def act(self, observation: Any) -> Any:
        """Action of the policy, sampled unless `deterministic`."""
        observation = self._policy_input(observation)
        action, self._memory = self._with_own_noise(
            lambda: self._policy.predict(
                observation,
                state=self._memory,
                episode_start=np.array([self._first]),
                deterministic=self._deterministic,
            )
        )
        # A copy: environments may keep or change the array that they receive.
        self._first, self._last = False, np.array(action)
        return action

    def _policy_input(self, observation: Any) -> Any:
        """Observation of the policy: latents of its twin, if it was trained on them."""
        if self._filter is None:
            return observation
        batch = one_row(observation)
        if self._first:
            return row_of(self._filter.start(batch, [self._seed]), 0)
        action = self._last[None]
        return row_of(self._filter.update(action, batch, np.zeros(1, np.int64)), 0)

    def _with_own_noise(self, act: Any) -> Any:
        # SB3 samples from torch's global generator: set its state to ours, and restore it afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._noise)
            result = act()
            self._noise = torch.get_rng_state()
        return result


class StuckPolicy(SavedPolicy):
    """Saved policy with faulty sensors: some observation dimensions are constant during an episode.

    The dimensions and their values, near the data of the policy, are drawn anew for each episode. Such a policy
    reaches states that neither random actions nor good policies reach: with a wrong cart position it still balances
    the pole and runs to the end of the track.
    share: share of the dimensions that are stuck, in (0, 1]; at least one dimension.

    Raises InvalidOptionError for a share out of range, or a policy without stored data statistics.
    """

    def __init__(self, model: BaseAlgorithm, share: float) -> None:
        super().__init__(model)
        features = getattr(model.policy, "features_extractor", None)
        if not isinstance(features, NormalizedFeatures):
            raise InvalidOptionError(
                "a stuck policy needs the data statistics of a policy that was trained with normalize=True on vector "
                "observations, and this one has none: train it so, or collect with PolicyExploration"
            )
        if not 0 < share <= 1:
            raise InvalidOptionError(f"share of stuck dimensions must be in (0, 1], got {share}")
        self._center = features.mean.numpy().astype(np.float64)
        self._scale = features.scale.numpy().astype(np.float64)
        self._count = math.ceil(share * self._center.size)
        self._stuck = np.zeros(self._center.size, np.bool_)
        self._stuck_at = self._center

    def reset(self, seed: int) -> None:
        """Start an episode: draw the stuck dimensions and their values."""
        super().reset(seed)
        rng = np.random.default_rng([seed, self._center.size])
        self._stuck = rng.permutation(self._center.size) < self._count
        self._stuck_at = rng.normal(self._center, _STUCK_WIDTH * self._scale)

    def act(self, observation: Any) -> Any:
        """Action of the policy for the observation with its stuck dimensions."""
        true = np.asarray(observation)
        stuck, values = (part.reshape(true.shape) for part in (self._stuck, self._stuck_at))
        return super().act(np.where(stuck, values, true).astype(true.dtype))


def make_exploration(config: ExplorationConfig, spec: WorldSpec) -> Exploration:
    """Make the exploration of a configuration. Raises InvalidOptionError, and what `load_policy` raises."""
    check_exploration(config)
    if isinstance(config, HeldExploration):
        return CorrelatedNoise(spec.action_space, config.steps)
    if isinstance(config, PolicyExploration):
        return SavedPolicy(_open_policy(config.path, spec), deterministic=config.deterministic)
    if isinstance(config, StuckSensorsExploration):
        return StuckPolicy(_open_policy(config.path, spec), config.share)
    if isinstance(config, MixtureExploration):
        return Mixture([make_exploration(part, spec) for part in config.parts], config.weights)
    return RandomPolicy(spec.action_space)


def _open_policy(folder: str, spec: WorldSpec) -> BaseAlgorithm:
    if policy_card(folder)["provenance"].get(CLOSED):
        raise InvalidOptionError(
            f"the policy {folder} belongs to a policy pool that evaluates twins: a twin fitted to data of this policy "
            "would get results that are too good. Collect with another policy."
        )
    return load_policy(folder, expect=spec)
