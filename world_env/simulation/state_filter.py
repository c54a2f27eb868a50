"""Model states inferred from real observations: for latent policies that act in the real environment."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from world_env.batch import Context, Observation, State, select
from world_env.device import without_gradients
from world_env.errors import ResetNeededError
from world_env.models.conditioning import check_shapes
from world_env.rng import CounterRNG
from world_env.simulation.observation_mode import ObservationView
from world_env.twin.twin import Twin, device_and_dtype_of


class StateFilter:
    """Filter of real observations with the `encode` and `observe` methods of a world model.

    The results have the form of a simulator's observations in the same mode.

    mode: "latent" or "both", as in SimulatorConfig. view: observation space and mode.
    """

    def __init__(self, twin: Twin, mode: str = "latent") -> None:
        self.view = ObservationView(twin, mode)
        self._codec, self._model = twin.codec, twin.model.for_inference()
        self._device, self._dtype = device_and_dtype_of(twin)
        self._rng = CounterRNG(torch.zeros(0, dtype=torch.int64, device="cpu"))
        self._state: State | None = None

    @without_gradients
    def start(self, observation: Any, seeds: Sequence[int], rows: np.ndarray | None = None) -> Any:
        """Start episodes and return the observations in this mode.

        observation: environment arrays (B, ...). seeds: of the noise, one per environment.
        rows: (B,) indices of the environments that start an episode, new ones included; None: B new environments
            replace all old ones.
        """
        encoded = self._codec.encode_observation(observation)
        context = Context.from_observation(encoded, self._codec.action_size)
        check_shapes(self._model, context.conditioning, "an observation")
        rng = CounterRNG(torch.tensor(list(seeds), dtype=torch.int64, device=self._device))
        state = self._model.encode(context.to(self._device, self._dtype), rng=rng)
        if rows is None:
            self._state, self._rng = state, rng
        else:
            self._put(torch.as_tensor(rows, device=self._device), state, rng)
        return self._combined(state, observation)

    @without_gradients
    def update(self, action: Any, observation: Any, rows: np.ndarray) -> Any:
        """Update environments with their actions and new observations; return the observations in this mode.

        action, observation: environment arrays (R, ...). rows: (R,) indices; other environments do not change.
        Raises InvalidActionError for an action outside the action space.
        """
        if self._state is None:
            raise ResetNeededError(
                "update() called before start(): call start() with the first observations"
            )
        encoded_action = self._codec.encode_action(np.asarray(action), device=self._device)
        encoded: Observation = {
            key: value.to(self._device, self._dtype)
            for key, value in self._codec.encode_observation(observation).items()
        }
        index = torch.as_tensor(rows, device=self._device)
        rng = self._rng.select(index)
        state = self._model.observe(
            select(self._state, index), encoded_action.to(self._dtype), encoded, rng=rng
        )
        self._put(index, state, rng)
        return self._combined(state, observation)

    def fork(self, number: int) -> StateFilter:
        """Return a filter of `number` independent copies of environment 0."""
        if self._state is None:
            raise ResetNeededError(
                "fork() called before start(): call start() with the first observations"
            )
        other = copy.copy(self)
        rows = torch.zeros(number, dtype=torch.int64, device=self._device)
        other._state, other._rng = select(self._state, rows), self._rng.select(rows)
        return other

    def _put(self, index: Tensor, state: State, rng: CounterRNG) -> None:
        """Replace the states and noise streams of some environments; indices beyond the last one add environments."""
        known = len(self._rng.seeds)
        missing = max(known, int(index.max()) + 1) - known
        old = (
            {name: value[:0] for name, value in state.items()}
            if self._state is None
            else self._state
        )
        self._state = {
            name: _grown(value, missing).index_copy(0, index, state[name])
            for name, value in old.items()
        }
        self._rng = CounterRNG(
            _grown(self._rng.seeds.to(index.device), missing).index_copy(0, index, rng.seeds),
            _grown(self._rng.draws.to(index.device), missing).index_copy(0, index, rng.draws),
        )

    def _combined(self, state: State, observation: Any) -> Any:
        return self.view.combine(observation, self.view.latent(self._model, state))


def _grown(values: Tensor, missing: int) -> Tensor:
    """Values (B, ...) with `missing` rows of zeros added."""
    return (
        torch.cat([values, values.new_zeros((missing, *values.shape[1:]))]) if missing else values
    )
