"""Trained Stable-Baselines3 policies, also those of sb3-contrib (recurrent ones included) and SBX."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces

from world_env.device import without_gradients
from world_env.envs.action_masks import DEFAULT_KEY, masks_of
from world_env.policies.protocol import EpisodicPolicy
from world_env.spaces import is_image, row_of

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm


@dataclass
class _Episode:
    """noise: state of the generator of sampled actions. memory: of a recurrent policy, arrays (layers, 1, H)."""

    seed: int
    noise: Any = None
    memory: tuple[np.ndarray, ...] | None = None
    first: bool = True


_MASK_KEY = "action_mask_key"


def attach_mask_key(model: BaseAlgorithm, key: str | None) -> None:
    """Store the key of the observations that holds the action masks in the policy of an algorithm."""
    setattr(model.policy, _MASK_KEY, key)


def mask_key_of(network: Any) -> str | None:
    """Return the key of the action masks of a policy: the attached one, or the default; None without masks."""
    key: str | None = getattr(network, _MASK_KEY, None)
    space = getattr(network, "observation_space", None)
    if key is None and isinstance(space, spaces.Dict) and DEFAULT_KEY in space.spaces:
        takes_masks = "action_masks" in inspect.signature(network.predict).parameters
        return DEFAULT_KEY if takes_masks else None
    return key


class SB3Policy(EpisodicPolicy[_Episode]):
    """Trained policy of a Stable-Baselines3 algorithm.

    model: a trained algorithm, or any object with the method `predict` of Stable-Baselines3's policies.
        A policy with action masks (MaskablePPO) takes them from a key of the observations.
    deterministic: whether to take the mode of the action distribution. Sampled actions have one stream of random
        numbers per episode, and the global generators of torch are left as they are.
    """

    def __init__(self, model: BaseAlgorithm | Any, *, deterministic: bool = True) -> None:
        super().__init__()
        # The networks only: an algorithm also holds environments, buffers and loggers.
        self.network: Any = getattr(model, "policy", model)
        self._deterministic = deterministic
        self._gsde = bool(getattr(model, "use_sde", False))
        self._direct = _is_direct(self.network)
        self._mask_key = mask_key_of(self.network)

    def begin(self, seed: int) -> _Episode:
        """Start an episode: no memory, and the random numbers of its seed."""
        return _Episode(seed)

    @without_gradients
    def act(self, observations: Any, env_indices: np.ndarray) -> np.ndarray:
        """Return actions (R, ...): deterministic ones in one call, sampled ones one environment after another."""
        episodes = self.episodes(env_indices)
        if self._deterministic:
            return self._predict(observations, episodes)
        return np.concatenate(
            [self._sample(row_of(observations, np.array([i])), e) for i, e in enumerate(episodes)]
        )

    def _predict(self, observations: Any, episodes: list[_Episode]) -> np.ndarray:
        if self._direct:
            return self._predict_directly(observations)
        first = np.array([episode.first for episode in episodes])
        memory = None if first.all() else _joined([episode.memory for episode in episodes])
        masks = {}
        if self._mask_key is not None:
            masks = {"action_masks": masks_of(observations, self._mask_key)}
        actions, memory = self.network.predict(
            observations,
            state=memory,
            episode_start=first,
            deterministic=self._deterministic,
            **masks,
        )
        for i, episode in enumerate(episodes):
            episode.first = False
            if memory is not None:
                episode.memory = tuple(part[:, i : i + 1] for part in memory)
        # A copy: environments may keep or change the array that they receive.
        return np.array(actions)

    def _predict_directly(self, observations: Any) -> np.ndarray:
        """`predict` of Stable-Baselines3 without its conversions, which take longer than a small network."""
        network, space = self.network, self.network.action_space
        if network.training:
            network.set_training_mode(False)
        tensor = torch.as_tensor(observations, device=network.device)
        actions = network._predict(tensor, deterministic=self._deterministic).cpu().numpy()
        actions = actions.reshape((-1, *space.shape))
        if not isinstance(space, spaces.Box):
            return actions  # type: ignore[no-any-return]
        if network.squash_output:
            return network.unscale_action(actions)  # type: ignore[no-any-return]
        return np.clip(actions, space.low, space.high)  # type: ignore[no-any-return]

    def _sample(self, observation: Any, episode: _Episode) -> np.ndarray:
        sample = lambda: self._predict(observation, [episode])  # noqa: E731
        if hasattr(self.network, "noise_key"):
            return self._with_jax_keys(sample, episode)
        with torch.random.fork_rng(devices=[]):
            # The noise matrix of gSDE is drawn again at each step, from the seed of its episode.
            if self._gsde:
                torch.manual_seed(episode.seed)
                self.network.reset_noise()
            if episode.noise is None and not self._gsde:
                torch.manual_seed(episode.seed)
            elif episode.noise is not None:
                torch.set_rng_state(episode.noise)
            actions = sample()
            episode.noise = torch.get_rng_state()
        return actions

    def _with_jax_keys(self, sample: Callable[[], np.ndarray], episode: _Episode) -> np.ndarray:
        """SBX: policies hold their random keys."""
        import jax

        if episode.noise is None:
            episode.noise = jax.random.split(jax.random.PRNGKey(episode.seed), 2)
        self.network.key, self.network.noise_key = episode.noise
        actions = sample()
        episode.noise = (self.network.key, self.network.noise_key)
        return actions


def _is_direct(network: Any) -> bool:
    """Whether a policy is one of torch, without memory, on vectors, whose `predict` no one has replaced."""
    try:
        from stable_baselines3.common.policies import BasePolicy
    except ImportError:
        return False
    if not isinstance(network, BasePolicy) or is_image(network.observation_space):
        return False
    own = getattr(network.predict, "__func__", None) is BasePolicy.predict
    return own and isinstance(network.observation_space, spaces.Box)


def _joined(memories: list[tuple[np.ndarray, ...] | None]) -> tuple[np.ndarray, ...] | None:
    """Memories of several episodes as one batch (layers, R, H); zeros for episodes that have just begun."""
    known = next((memory for memory in memories if memory is not None), None)
    if known is None:
        return None
    filled = [tuple(map(np.zeros_like, known)) if each is None else each for each in memories]
    return tuple(np.concatenate(parts, axis=1) for parts in zip(*filled, strict=True))
