"""The stepping core: many rows of one twin, stepped together. Autoreset belongs to the shells above."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from world_env.batch import State, replace, select
from world_env.codec import Codec
from world_env.errors import (
    InitialStatesError,
    InvalidActionError,
    InvalidOptionError,
    ResetNeededError,
    SpaceMismatchError,
)
from world_env.rng import CounterRNG, derive_seeds
from world_env.simulation.config import ON_UNCERTAIN, SimulatorConfig, whole_number
from world_env.simulation.initial_states import (
    draw_initial_states,
    given_initial_states,
    reset_options,
)
from world_env.simulation.observation_mode import View
from world_env.simulation.snapshot import (
    Seeds,
    Snapshot,
    as_index,
    as_mask,
    both,
    reseeded,
    row_seeds,
)
from world_env.simulation.step_outputs import StepResult, array, check_known, finite_rows, numbers
from world_env.simulation.termination import ENDS, Limits, TerminalBounds
from world_env.twin.twin import Twin, home_of

__all__ = ["ENDS", "ON_UNCERTAIN", "Simulator", "SimulatorConfig", "Snapshot",
           "StepResult"]  # fmt: skip

_CACHE = "cache."
"""State entries with this prefix can be rebuilt by the model; snapshots leave them out."""


class Simulator:
    """B rows of a twin. `reset` some, `step` some, `snapshot`, `restore`, `fork`; finished rows wait for a reset.

    finished: (B,) bool, rows whose episode is over, or has not begun. view: what agents see, `view.space` its space.
    """

    def __init__(
        self,
        twin: Twin,
        num_rows: int,
        *,
        seed: int | None = None,
        config: SimulatorConfig | None = None,
    ) -> None:
        self.num_rows = whole_number(num_rows, "num_rows (num_envs)")
        self.twin, self.config = twin, config or SimulatorConfig()
        self.codec: Codec = twin.codec
        self.device, self.dtype = home_of(twin)
        self.horizon = (
            twin.spec.horizon if self.config.horizon is None else int(self.config.horizon)
        )
        threshold = self.config.uncertainty_threshold
        threshold = twin.uncertainty_threshold if threshold is None else threshold
        if self.config.on_uncertain != "ignore" and threshold is None:
            raise InvalidOptionError(
                f"on_uncertain={self.config.on_uncertain!r} needs a threshold, and this twin has none: pass "
                "uncertainty_threshold=..., or use 'ignore'"
            )
        if self.config.dataset_starts and twin.states is None:
            raise InitialStatesError(
                "dataset_starts asks for dataset states, but this twin holds only true starts: pass 0"
            )
        lowest = 0.0 if twin.ranges is None else twin.ranges.reward[0]
        # float32, as the model's probabilities: a comparison should not depend on how numpy casts.
        self._termination_threshold = np.float32(twin.termination_threshold)
        self._bounds = TerminalBounds(twin.ranges)
        self.view = View(twin, self.config.observation_mode)
        self._limits = Limits(self.config, self.horizon, threshold, lowest)
        self._model = twin.model.for_inference()
        self._known = bool(twin.known)
        # Who judges by what is seen has to see it.
        self._decodes = self.view.decodes or self._known or bool(self._bounds)
        asked = self.config.uncertainty
        self._uncertainty = self.config.on_uncertain != "ignore" if asked is None else asked
        self._row_seeds = row_seeds(secrets.randbits(48) if seed is None else seed, num_rows)
        self._episodes = torch.zeros(num_rows, dtype=torch.int64)
        self._rng = CounterRNG(self._row_seeds.to(self.device))
        self._counters = np.zeros((2, num_rows), np.int64)
        self._state: State | None = None
        self.finished = np.ones(num_rows, bool)

    def set_branch_length(self, length: int) -> None:
        """Another `branch_length` from the next step on: curricula let branches grow."""
        self.config = dataclasses.replace(self.config, branch_length=length)
        self._limits = dataclasses.replace(self._limits, config=self.config)

    # -- reset ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def reset(
        self,
        rows: np.ndarray | None = None,
        *,
        seed: Seeds | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Begin new episodes in `rows` ((B,) bool; None: all) and return all rows' observations.

        seed: row i gets the seed `seed` + i, or the i-th of B seeds, and starts its first episode; without (or with
            None for a row), the next episode of its own.
        options: at most one of "observation" (environment arrays, one for each reset row), "context" (a dict with
            "observations" (n, K, ...), "actions" (n, K-1, ...), optional "elapsed" (n,)), "snapshot" (a seed then
            gives it another future).
        Raises InvalidOptionError on anything else; after an error nothing has moved.
        """
        mask = as_mask(rows, self.num_rows)
        options = reset_options(options)
        if set(options) - {"observation", "context", "snapshot"} or len(options) > 1:
            raise InvalidOptionError(
                f"options {sorted(map(str, options))}: expected at most one of 'observation', 'context', 'snapshot'"
            )
        if self._state is None and not mask.all():
            raise ResetNeededError(
                "the first reset must cover all rows: call reset() without a mask"
            )
        index = np.flatnonzero(mask)
        row_seeds, episodes = reseeded(seed, mask, self._row_seeds, self._episodes)
        if "snapshot" in options:
            self._check_snapshot(options["snapshot"], index)
            self._row_seeds, self._episodes = row_seeds, episodes
            self.restore(options["snapshot"], rows=mask, fresh_noise=seed is not None)
            return self.observe()
        rng = CounterRNG(derive_seeds(row_seeds[index], episodes[index]))
        if options:
            context = given_initial_states(options, self.codec, len(index))
        else:
            share = self.config.dataset_starts
            context = draw_initial_states(self.twin.starts, self.twin.states, share, rng)
        rng = CounterRNG(rng.seeds.to(self.device), rng.draws.to(self.device))
        state = self._model.encode(context.to(self.device, self.dtype), rng=rng)
        self._row_seeds, self._episodes = row_seeds, episodes
        self._episodes[index] += 1
        self._place(index, state, rng)
        self._counters[0, index] = context.elapsed.cpu().numpy()
        self._counters[1, index] = 0
        self.finished[index] = False
        return self.observe()

    @torch.no_grad()
    def observe(self) -> Any:
        """What agents see of all rows now, fresh arrays; as `observation_mode` says."""
        observation = self.picture() if self.view.decodes else None
        return self.view.shown(observation, self.view.latent(self._model, self._now()))

    @torch.no_grad()
    def picture(self) -> Any:
        """The current observation of all rows in the real environment's form, whatever agents see."""
        return self.codec.decode_observation(self._model.decode(self._now()))

    def _now(self) -> State:
        if self._state is None:
            raise ResetNeededError("nothing to observe yet: call reset() first")
        return self._state

    # -- step ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, action: Any, rows: np.ndarray | None = None) -> StepResult:
        """Advance `rows` ((B,) bool; None: all) with actions (B, ...); other rows stay as they are.

        Raises ResetNeededError for a row whose episode is over, InvalidActionError for a bad action of a stepped row;
        after an error nothing has moved.
        """
        mask = None if rows is None else as_mask(rows, self.num_rows)
        over = self.finished if mask is None else self.finished & mask
        if self._state is None or over.any():
            which = np.flatnonzero(over)[:8].tolist()
            raise ResetNeededError(
                f"rows {which} have no running episode: call reset() before step()"
            )
        if mask is not None and mask.all():
            mask = None
        encoded, action = self._encode_action(action, mask)
        rng = self._rng.clone()
        state, prediction = self._model.step(
            self._state,
            encoded,
            rng=rng,
            temperature=self.config.temperature,
            uncertainty=self._uncertainty,
        )
        said = numbers(prediction)
        seen, latent = self._look(state)
        finite = finite_rows([*seen.values(), *([] if latent is None else [latent])], said)
        moved = both(mask, finite)
        if moved is not None:
            # A row that did not move, or went to no number, keeps what it last showed.
            state = replace(self._state, torch.as_tensor(moved, device=self.device), state)
            seen, latent = self._look(state)
        before = self.picture() if self._known else None
        observation = self.codec.decode_arrays(seen) if self._decodes else None
        terminated = self._terminated(before, action, observation, said["terminated"], rng)
        reward = self._reward(before, action, observation, said, terminated)
        # From here on nothing can fail: the rows move.
        self._state = state
        if mask is None:
            self._rng = rng
            self._counters += 1
        else:
            self._rng = self._rng.merge(torch.as_tensor(mask, device=self.device), rng)
            self._counters[:, mask] += 1
        doubt = None if prediction.uncertainty is None else array(prediction.uncertainty).copy()
        reward, terminated, end = self._limits.judge(
            reward, terminated, doubt, self._counters, mask, finite
        )
        ended = end != 0
        if ended.any():
            self.finished = self.finished | ended
        shown = self.view.shown(observation, latent)
        return StepResult(shown, reward, terminated, ended & ~terminated, end, doubt)

    def _look(self, state: State) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """(decoded observation, still encoded; latent) of a state, each as far as somebody needs it."""
        decoded = self._model.decode(state) if self._decodes else {}
        seen = {key: value.numpy(force=True) for key, value in decoded.items()}
        return seen, self.view.latent(self._model, state)

    def _terminated(
        self, before: Any, action: Any, after: Any, probability: np.ndarray, rng: CounterRNG
    ) -> np.ndarray:
        if self.twin.termination_fn is not None:
            ends = np.asarray(self.twin.termination_fn(before, action, after))
            return check_known(ends, self.num_rows, "termination_fn").astype(bool)
        if self.config.termination == "sample":
            ends = array(rng.uniform(1).squeeze(-1)) < probability
        else:
            ends = probability > self._termination_threshold
        return ends | self._bounds.beyond(after) if self._bounds else ends

    def _reward(
        self,
        before: Any,
        action: Any,
        after: Any,
        said: dict[str, np.ndarray],
        terminated: np.ndarray,
    ) -> np.ndarray:
        if self.twin.reward_fn is not None:
            reward = np.asarray(self.twin.reward_fn(before, action, after))
            return check_known(reward, self.num_rows, "reward_fn").astype(np.float32)
        reward = said["reward"]
        if "terminal_reward" in said and terminated.any():
            reward = np.where(terminated, said["terminal_reward"], reward)
        return self.codec.clip_reward(reward)

    # -- snapshots -----------------------------------------------------------------------------------------------

    def snapshot(self, rows: Any = None) -> Snapshot:
        """All there is to `rows` ((B,) bool or indices; None: all), independent of what happens next."""
        if self._state is None:
            raise ResetNeededError("nothing to snapshot yet: call reset() first")
        index = as_index(rows, self.num_rows)
        where = torch.as_tensor(index, device=self.device)
        identity = [self._episodes.numpy(), self._row_seeds.numpy()]
        kept = {n: value for n, value in self._state.items() if not n.startswith(_CACHE)}
        return Snapshot(
            select(kept, where),
            self._rng.seeds[where],
            self._rng.draws[where],
            np.concatenate([self._counters, identity])[:, index],
            self.finished[index],
        )

    def restore(self, snapshot: Snapshot, rows: Any = None, *, fresh_noise: bool = False) -> None:
        """Put the rows of a snapshot into `rows` ((B,) bool or indices; None: all).

        fresh_noise: keep each row's own stream of noise instead of the stored one: another future from one past.
        Raises InvalidOptionError where the row counts differ, SpaceMismatchError for another twin's snapshot.
        """
        index = as_index(rows, self.num_rows)
        self._check_snapshot(snapshot, index)
        if len(np.unique(index)) != len(index):
            raise InvalidOptionError(f"rows to restore are named twice: {index[:8].tolist()}")
        rng = CounterRNG(snapshot.seeds.to(self.device), snapshot.draws.to(self.device))
        if fresh_noise:
            fresh = derive_seeds(self._row_seeds[index], self._episodes[index])
            rng = CounterRNG(fresh.to(self.device))
        state = {name: value.to(self.device) for name, value in snapshot.state.items()}
        self._place(index, state, rng)
        if fresh_noise:
            self._episodes[index] += 1
        else:
            self._episodes[index] = torch.as_tensor(snapshot.counters[2])
            self._row_seeds[index] = torch.as_tensor(snapshot.counters[3])
        self._counters[:, index] = snapshot.counters[:2]
        self.finished[index] = snapshot.finished

    def fork(self, rows: Any = None, n: int = 1, *, seed: int | None = None) -> Simulator:
        """A new simulator with `n` futures of each of `rows`, one after another, each with noise of its own.

        seed: of the futures' noise; None: derived from where each row stands, so that a replay forks alike.
        """
        n = whole_number(n, "n, the futures of each row,")
        chosen = as_index(rows, self.num_rows)
        index = np.repeat(chosen, n)
        snapshot = self.snapshot(index)
        other = Simulator(self.twin, len(index), seed=seed, config=self.config)
        if seed is None:
            place = derive_seeds(snapshot.seeds.cpu(), snapshot.draws.cpu())
            copies = torch.as_tensor(np.tile(np.arange(1, n + 1), len(chosen)))
            other._row_seeds = derive_seeds(place, copies)
        other.restore(snapshot, fresh_noise=True)
        return other

    # -- details -------------------------------------------------------------------------------------------------

    def _check_snapshot(self, snapshot: Any, index: np.ndarray) -> None:
        if not isinstance(snapshot, Snapshot):
            raise InvalidOptionError(
                f"expected a Snapshot from snapshot(), got {type(snapshot).__name__}"
            )
        if len(index) != len(snapshot):
            raise InvalidOptionError(
                f"the snapshot holds {len(snapshot)} rows, but {len(index)} are to be restored"
            )
        if self._state is None:
            if len(index) != self.num_rows:
                raise ResetNeededError("the first reset or restore must cover all rows")
            return
        mine = {n: v.shape[1:] for n, v in self._state.items() if not n.startswith(_CACHE)}
        got = {name: value.shape[1:] for name, value in snapshot.state.items()}
        if mine != got:
            raise SpaceMismatchError(
                f"the snapshot is of another twin: it holds {got}, this one's state is {mine}"
            )

    def _encode_action(self, action: Any, mask: np.ndarray | None) -> tuple[Tensor, Any]:
        action = np.asarray(action)
        if action.shape[:1] != (self.num_rows,):
            raise InvalidActionError(
                f"{self.num_rows} rows need a batch of {self.num_rows} actions, got the shape {action.shape}"
            )
        if mask is None:
            return self.codec.encode_action(action, device=self.device).to(self.dtype), action
        encoded = torch.zeros(
            self.num_rows, self.codec.action_size, device=self.device, dtype=self.dtype
        )
        if mask.any():
            chosen = self.codec.encode_action(action[mask], device=self.device)
            encoded[torch.as_tensor(mask, device=self.device)] = chosen.to(self.dtype)
        return encoded, action

    def _place(self, index: np.ndarray, state: State, rng: CounterRNG) -> None:
        """Write rows into the state; always new tensors, because snapshots and models may share the old ones."""
        where = torch.as_tensor(index, device=self.device)
        if len(index) == self.num_rows:
            self._state = select(state, torch.argsort(where))
        else:
            assert self._state is not None
            # A rebuildable entry that one side lacks is dropped: the model builds it again.
            self._state = {
                name: value.index_copy(0, where, state[name])
                for name, value in self._state.items()
                if name in state
            }
        self._rng = CounterRNG(
            self._rng.seeds.index_copy(0, where, rng.seeds),
            self._rng.draws.index_copy(0, where, rng.draws),
        )
