"""Policies whose input is the latent state of a twin's world model instead of the observation.

The world model is stored with the policy, in memory and on disk. The policy therefore acts on plain observations, in
the real environment and in other twins. While it trains in a twin, it receives latents and nothing is decoded.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from world_env.errors import ResetNeededError
from world_env.policies.protocol import Policy
from world_env.simulation.state_filter import StateFilter
from world_env.spaces import row_of
from world_env.twin.twin import Twin

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

_ATTRIBUTE = "latent_encoder"


@dataclass(frozen=True)
class LatentEncoder:
    """World model that maps observations to the input of a policy. mode: observation mode, "latent" or "both"."""

    twin: Twin
    mode: str


def attach_encoder(model: BaseAlgorithm, encoder: LatentEncoder | None) -> None:
    """Store the encoder in the policy of an algorithm. None: the policy takes observations.

    It is an attribute of the policy and not of the algorithm, because Stable-Baselines3 saves the attributes of an
    algorithm, but of a policy the weights only. `save_policy` stores the encoder in a folder.
    """
    setattr(model.policy, _ATTRIBUTE, encoder)


def encoder_of(model: BaseAlgorithm | Any) -> LatentEncoder | None:
    """Return the encoder of a trained algorithm, or None if its policy takes observations."""
    return getattr(getattr(model, "policy", None), _ATTRIBUTE, None)


class LatentPolicy(Policy):
    """Policy on latents as a policy on observations. It keeps the latent state of each running episode.

    policy: receives latents. encoder: computes them.
    """

    def __init__(self, policy: Policy, encoder: LatentEncoder) -> None:
        self._policy = policy
        self._filter = StateFilter(encoder.twin, encoder.mode)
        self._seeds: dict[int, int] = {}
        self._actions: np.ndarray | None = None

    def reset(self, env_indices: np.ndarray, seeds: Sequence[int]) -> None:
        """Start episodes: their next observations are the first ones."""
        self._policy.reset(env_indices, seeds)
        self._seeds |= {int(i): int(seed) for i, seed in zip(env_indices, seeds, strict=True)}

    def act(self, observations: Any, env_indices: np.ndarray) -> np.ndarray:
        """Return actions (R, ...) for observations (R, ...) of the environment."""
        begins = np.array([int(index) in self._seeds for index in env_indices])
        latents = None
        for rows, encode in ((begins, self._start), (~begins, self._update)):
            if rows.any():
                part = encode(row_of(observations, rows), env_indices[rows])
                latents = part if rows.all() else _placed(latents, rows, part)
        actions = self._policy.act(latents, env_indices)
        self._remember(actions, env_indices)
        return actions

    def executed(self, actions: np.ndarray, env_indices: np.ndarray) -> None:
        """Report the executed actions, from which the next latent states follow."""
        self._policy.executed(actions, env_indices)
        self._remember(actions, env_indices)

    def fork(self, n: int) -> LatentPolicy:
        """Return an independent copy for `n` environments in the episode and latent state of environment 0."""
        other = copy.copy(self)
        other._policy = self._policy.fork(n)
        other._seeds = dict.fromkeys(range(n), self._seeds[0]) if 0 in self._seeds else {}
        running = self._actions is not None
        other._filter = self._filter.fork(n) if running else copy.copy(self._filter)
        other._actions = np.repeat(self._actions[:1], n, 0) if running else None  # type: ignore[index]
        return other

    def _start(self, observations: Any, env_indices: np.ndarray) -> Any:
        seeds = [self._seeds.pop(int(index)) for index in env_indices]
        return self._filter.start(observations, seeds, env_indices)

    def _update(self, observations: Any, env_indices: np.ndarray) -> Any:
        if self._actions is None or env_indices.max() >= len(self._actions):
            raise ResetNeededError(
                f"act() called in environments {env_indices.tolist()} before reset(): call "
                "reset(env_indices, seeds) first"
            )
        return self._filter.update(self._actions[env_indices], observations, env_indices)

    def _remember(self, actions: np.ndarray, env_indices: np.ndarray) -> None:
        missing = int(env_indices.max()) + 1 - (0 if self._actions is None else len(self._actions))
        if missing > 0:
            new = np.zeros((missing, *actions.shape[1:]), actions.dtype)
            self._actions = new if self._actions is None else np.concatenate([self._actions, new])
        self._actions[env_indices] = actions  # type: ignore[index]


def _placed(latents: Any, rows: np.ndarray, part: Any) -> Any:
    """Latents (R, ...) with those of some rows set; None: new ones."""
    if isinstance(part, dict):
        return {
            key: _placed(None if latents is None else latents[key], rows, value)
            for key, value in part.items()
        }
    if latents is None:
        latents = np.zeros((len(rows), *part.shape[1:]), part.dtype)
    latents[rows] = part
    return latents
