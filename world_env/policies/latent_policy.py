"""Policies that see a world through a twin's model: on its latents instead of on observations.

Such a policy takes the model with it, on disk too, so that it acts wherever observations are: in reality, and in other
twins. While it learns, the twin hands it latents without ever decoding them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from world_env.simulation.state_filter import StateFilter
from world_env.twin.twin import Twin

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm


@dataclass(frozen=True)
class LatentEncoder:
    """What a policy sees through. mode: "latent" or "both"."""

    twin: Twin
    mode: str


# Beside the algorithms and not in them: what lies in an algorithm is pickled with it.
_ENCODERS: WeakKeyDictionary[BaseAlgorithm, LatentEncoder] = WeakKeyDictionary()


def attach_encoder(model: BaseAlgorithm, encoder: LatentEncoder | None) -> None:
    """From now on the policy sees through this twin; None: with its own eyes."""
    if encoder is None:
        _ENCODERS.pop(model, None)
    else:
        _ENCODERS[model] = encoder


def encoder_of(model: BaseAlgorithm) -> LatentEncoder | None:
    """What a policy sees through; None: it takes observations as they are."""
    return _ENCODERS.get(model)


class LatentActor:
    """A policy on latents as a function of observations; it remembers the episodes that it is in.

    `begin` forgets them: the rows of the next call stand at the beginning of theirs.
    """

    def __init__(
        self, model: BaseAlgorithm, encoder: LatentEncoder, *, deterministic: bool = True
    ) -> None:
        self._model, self._deterministic = model, deterministic
        self._filter = StateFilter(encoder.twin, encoder.mode)
        self._last: np.ndarray | None = None

    def begin(self) -> None:
        """The next call is the first of new episodes, of all their rows."""
        self._last = None

    def took(self, action: np.ndarray, rows: np.ndarray) -> None:
        """What was done instead of the last call's actions (R, ...): the model follows what happened."""
        assert self._last is not None, "there is no past yet"
        self._last[rows] = action

    def fork(self, number: int) -> LatentActor:
        """An actor of `number` rows that all remember what row 0 of this one does."""
        assert self._last is not None, "there is no past yet"
        other = copy.copy(self)
        other._filter, other._last = self._filter.fork(number), np.repeat(self._last[:1], number, 0)
        return other

    def __call__(self, observation: Any, rows: np.ndarray) -> np.ndarray:
        """(R, ...) actions for the rows (R,) of an episode each."""
        if self._last is None:
            latent = self._filter.begin(observation, rows.tolist())
        else:
            latent = self._filter.go_on(self._last[rows], observation, rows)
        action = np.asarray(self._model.predict(latent, deterministic=self._deterministic)[0])
        if self._last is None:
            self._last = action.copy()
        self._last[rows] = action
        return action
