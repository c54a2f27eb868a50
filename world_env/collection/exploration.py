"""Who acts in the real environment while its data is collected."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces

from world_env.errors import InvalidOptionError
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
"""Data scales around the data's mean at which broken sensors stick (a deviation)."""


class RandomPolicy(Exploration):
    """Every action drawn afresh, uniform over the action space."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        # A copy: the environment's own sampler belongs to the environment.
        self._space = copy.deepcopy(space)

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self._space.seed(seed)

    def act(self, observation: Any) -> Any:
        """A fresh random action."""
        return self._space.sample()


class Mixture(Exploration):
    """One of several explorations for each whole episode, so that each makes its share of the steps.

    By steps, not by episodes: else one that stands for a thousand steps leaves little to those that fall after thirty.
    """

    def __init__(self, parts: Sequence[Exploration], weights: Sequence[float]) -> None:
        total = sum(weights)
        if not parts or len(parts) != len(weights) or min(weights) < 0 or not total > 0:
            raise InvalidOptionError(
                f"a mixture of {len(parts)} parts got the weights {list(weights)}: expected one "
                "weight >= 0 a part, and one above 0"
            )
        self._parts = list(parts)
        self._chances = np.asarray(weights, np.float64) / total
        self._steps = np.zeros(len(parts))
        self._current = 0

    def reset(self, seed: int) -> None:
        """Begin an episode with the part that is furthest behind its share; drawn by the seed where none is."""
        behind = self._chances * self._steps.sum() - self._steps
        rng = np.random.default_rng([seed, len(self._parts)])
        drawn = rng.choice(len(self._parts), p=self._chances)
        self._current = int(behind.argmax() if behind.max() >= 0.5 else drawn)
        self._parts[self._current].reset(seed)

    def act(self, observation: Any) -> Any:
        """What the chosen part does."""
        self._steps[self._current] += 1
        return self._parts[self._current].act(observation)

    def skip(self, seed: int, steps: int) -> None:
        """Take in an episode that was played before: whose it was, and that it had so many steps."""
        self.reset(seed)
        self._steps[self._current] += steps


class SavedPolicy(Exploration):
    """A trained Stable-Baselines3 policy that acts with noise of its own."""

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
        """Begin an episode: fresh noise, no memory."""
        self._noise = torch.Generator().manual_seed(seed).get_state()
        self._memory, self._first = None, True
        self._seed = seed
        if self._sde:
            self._with_own_noise(self._policy.reset_noise)

    def act(self, observation: Any) -> Any:
        """What the policy does, sampled unless deterministic."""
        observation = self._seen(observation)
        action, self._memory = self._with_own_noise(
            lambda: self._policy.predict(
                observation,
                state=self._memory,
                episode_start=np.array([self._first]),
                deterministic=self._deterministic,
            )
        )
        # A copy: environments may keep, or change, the array that they are given.
        self._first, self._last = False, np.array(action)
        return action

    def _seen(self, observation: Any) -> Any:
        """What the policy takes in: latents where it sees through a twin."""
        if self._filter is None:
            return observation
        shown = one_row(observation)
        if self._first:
            return row_of(self._filter.begin(shown, [self._seed]), 0)
        action = self._last[None]
        return row_of(self._filter.go_on(action, shown, np.zeros(1, np.int64)), 0)

    def _with_own_noise(self, act: Any) -> Any:
        # SB3 draws from torch's global generator: ours is lent to it, then the old one put back.
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._noise)
            result = act()
            self._noise = torch.get_rng_state()
        return result


class StuckPolicy(SavedPolicy):
    """A saved policy with broken sensors, in each episode others.

    A share of what it sees, other dimensions in each episode, is stuck at values of the data's range.
    A pole-balancer that does not see where it is, or how fast, balances on and runs into the end of the track: skilled
    enough to travel, and wrong enough to arrive where neither random actions nor good policies go.
    share: of the dimensions, above 0, up to 1; at least one is stuck.
    """

    def __init__(self, model: BaseAlgorithm, share: float) -> None:
        super().__init__(model)
        features = getattr(model.policy, "features_extractor", None)
        if not isinstance(features, NormalizedFeatures):
            raise InvalidOptionError(
                "stuck sensors show values of the data's range, and this policy does not carry one: train it with "
                'normalize=True on vector observations, or collect with "policy:FOLDER"'
            )
        if not 0 < share <= 1:
            raise InvalidOptionError(
                f"a share of {share} of the sensors is stuck, expected above 0, at most 1"
            )
        self._center = features.mean.numpy().astype(np.float64)
        self._scale = features.scale.numpy().astype(np.float64)
        self._count = math.ceil(share * self._center.size)
        self._stuck = np.zeros(self._center.size, np.bool_)
        self._shown = self._center

    def reset(self, seed: int) -> None:
        """Begin an episode: other sensors are stuck, at other values."""
        super().reset(seed)
        rng = np.random.default_rng([seed, self._center.size])
        self._stuck = rng.permutation(self._center.size) < self._count
        self._shown = rng.normal(self._center, _STUCK_WIDTH * self._scale)

    def act(self, observation: Any) -> Any:
        """What the policy does on what its sensors show."""
        seen = np.asarray(observation)
        shown = np.where(self._stuck.reshape(seen.shape), self._shown.reshape(seen.shape), seen)
        return super().act(shown.astype(seen.dtype))


def parse_exploration(text: str, spec: WorldSpec) -> Exploration:
    """The exploration that a text names.

    "random"; "held:STEPS"; "policy:FOLDER" (sampled actions); "greedy:FOLDER" (most likely ones);
    "stuck:SHARE:FOLDER" (sampled, that share of its sensors stuck); "mix:WEIGHT*PART+WEIGHT*PART" of these.
    Raises InvalidOptionError for anything else.
    """
    kind, _, rest = text.strip().partition(":")
    space = spec.action_space
    if kind == "random" and not rest:
        return RandomPolicy(space)
    if kind == "held" and rest:
        return CorrelatedNoise(space, _number(rest, text, "held:20"))
    if kind in ("policy", "greedy") and rest:
        return SavedPolicy(_open_policy(rest, spec), deterministic=kind == "greedy")
    if kind == "stuck" and rest:
        number, _, folder = rest.partition(":")
        share = _number(number, text, "stuck:0.5:FOLDER")
        return StuckPolicy(_open_policy(folder, spec), share)
    if kind == "mix" and rest:
        pairs = [part.partition("*") for part in rest.split("+")]
        weights = [_number(weight, text, "mix:0.5*random+0.5*held:20") for weight, _, _ in pairs]
        return Mixture([parse_exploration(part, spec) for _, _, part in pairs], weights)
    raise InvalidOptionError(
        f'unknown exploration {text!r}: expected "random", "held:20" (mean steps), '
        '"policy:FOLDER", "greedy:FOLDER", "stuck:0.5:FOLDER" (share), or a mixture such as '
        '"mix:0.5*random+0.5*held:20"'
    )


def _open_policy(folder: str, spec: WorldSpec) -> BaseAlgorithm:
    if policy_card(folder)["provenance"].get(CLOSED):
        raise InvalidOptionError(
            f"the policy {folder} belongs to a pool that judges twins: data collected with it would make them look "
            "better than they are. Collect with another policy."
        )
    return load_policy(folder, expect=spec)


def _number(text: str, whole: str, example: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InvalidOptionError(
            f'{text!r} in the exploration {whole!r} is no number: expected for example "{example}"'
        ) from error
