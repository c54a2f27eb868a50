"""States inferred from what is observed in reality: the latents of policies that act outside of their twin."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from world_env.batch import Context, Observation, State, select
from world_env.rng import CounterRNG
from world_env.simulation.observation_mode import View
from world_env.twin.twin import Twin, home_of


class StateFilter:
    """Latents of many rows: from the first observation of an episode, then from one after each action.

    `WorldModel.encode` and `WorldModel.observe`, as a twin's simulator would show their states in the same mode.
    view: what is shown. mode: "latent" or "both", as in SimulatorConfig.
    """

    def __init__(self, twin: Twin, mode: str = "latent") -> None:
        self.view = View(twin, mode)
        self._codec, self._model = twin.codec, twin.model.for_inference()
        self._device, self._dtype = home_of(twin)
        self._rng = CounterRNG(torch.zeros(0, dtype=torch.int64))
        self._state: State | None = None

    @torch.no_grad()
    def begin(self, observation: Any, seeds: Sequence[int], rows: np.ndarray | None = None) -> Any:
        """What rows see where their episodes begin.

        observation: batched environment arrays (B, ...). seeds: of each row's draws. rows: (B,) those of all rows that
        begin, by number; None: there are these and no others.
        """
        encoded = self._codec.encode_observation(observation)
        context = Context.from_observation(encoded, self._codec.action_size)
        rng = CounterRNG(torch.tensor(list(seeds), dtype=torch.int64, device=self._device))
        state = self._model.encode(context.to(self._device, self._dtype), rng=rng)
        if rows is None:
            self._state, self._rng = state, rng
        else:
            self._put(torch.as_tensor(rows, device=self._device), state, rng)
        return self._shown(state, observation)

    @torch.no_grad()
    def go_on(self, action: Any, observation: Any, rows: np.ndarray) -> Any:
        """What the rows (R,), by number, see after their actions (R, ...); the others stay where they are.

        Raises InvalidActionError for an action that the world does not have.
        """
        assert self._state is not None, "begin() comes first"
        taken = self._codec.encode_action(np.asarray(action), device=self._device)
        seen: Observation = {
            key: value.to(self._device, self._dtype)
            for key, value in self._codec.encode_observation(observation).items()
        }
        index = torch.as_tensor(rows, device=self._device)
        rng = self._rng.select(index)
        state = self._model.observe(
            select(self._state, index), taken.to(self._dtype), seen, rng=rng
        )
        self._put(index, state, rng)
        return self._shown(state, observation)

    def fork(self, number: int) -> StateFilter:
        """`number` rows that all stand where row 0 of this one does; each filters on by itself."""
        assert self._state is not None, "begin() comes first"
        other = copy.copy(self)
        rows = torch.zeros(number, dtype=torch.int64, device=self._device)
        other._state, other._rng = select(self._state, rows), self._rng.select(rows)
        return other

    def _put(self, index: Tensor, state: State, rng: CounterRNG) -> None:
        """Let some rows stand elsewhere."""
        assert self._state is not None, "begin() of all rows comes first"
        self._state = {
            name: value.index_copy(0, index, state[name]) for name, value in self._state.items()
        }
        self._rng = CounterRNG(
            self._rng.seeds.index_copy(0, index, rng.seeds),
            self._rng.draws.index_copy(0, index, rng.draws),
        )

    def _shown(self, state: State, observation: Any) -> Any:
        return self.view.shown(observation, self.view.latent(self._model, state))
