"""Policies whose input is the latent state of a twin's world model instead of the observation.

The world model is stored with the policy, in memory and on disk. The policy therefore acts on plain observations, in
the real environment and in other twins. While it trains in a twin, it receives latents and nothing is decoded.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from world_env.errors import ResetNeededError
from world_env.simulation.state_filter import StateFilter
from world_env.twin.twin import Twin

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm


@dataclass(frozen=True)
class LatentEncoder:
    """World model that maps observations to the input of a policy. mode: observation mode, "latent" or "both"."""

    twin: Twin
    mode: str


# Not an attribute of the algorithm: Stable-Baselines3 pickles attributes when it saves.
_ENCODERS: WeakKeyDictionary[BaseAlgorithm, LatentEncoder] = WeakKeyDictionary()


def attach_encoder(model: BaseAlgorithm, encoder: LatentEncoder | None) -> None:
    """Set the encoder of a policy. None: the policy takes observations."""
    if encoder is None:
        _ENCODERS.pop(model, None)
    else:
        _ENCODERS[model] = encoder


def encoder_of(model: BaseAlgorithm) -> LatentEncoder | None:
    """Return the encoder of a policy, or None if it takes observations."""
    return _ENCODERS.get(model)


class LatentActor:
    """Latent policy as a function of observations. It keeps the latent state of each running episode.

    Call `begin` before new episodes: it discards these states.
    """

    def __init__(
        self, model: BaseAlgorithm, encoder: LatentEncoder, *, deterministic: bool = True
    ) -> None:
        self._model, self._deterministic = model, deterministic
        self._filter = StateFilter(encoder.twin, encoder.mode)
        self._last: np.ndarray | None = None

    def begin(self) -> None:
        """Discard all latent states: the next call holds the first observations of new episodes."""
        self._last = None

    def took(self, action: np.ndarray, rows: np.ndarray) -> None:
        """Replace actions of the last call by the executed ones (R, ...), for the latent states of rows (R,)."""
        if self._last is None:
            raise ResetNeededError("took() called before the first action")
        self._last[rows] = action

    def fork(self, number: int) -> LatentActor:
        """Return an actor for `number` batch rows that all start in the latent state of row 0."""
        if self._last is None:
            raise ResetNeededError("fork() called before the first action")
        other = copy.copy(self)
        other._filter, other._last = self._filter.fork(number), np.repeat(self._last[:1], number, 0)
        return other

    def __call__(self, observation: Any, rows: np.ndarray) -> np.ndarray:
        """Return actions (R, ...) for observations (R, ...); rows (R,) are the indices of their episodes."""
        if self._last is None:
            latent = self._filter.start(observation, rows.tolist())
        else:
            latent = self._filter.update(self._last[rows], observation, rows)
        action = np.asarray(self._model.predict(latent, deterministic=self._deterministic)[0])
        if self._last is None:
            self._last = action.copy()
        self._last[rows] = action
        return action
