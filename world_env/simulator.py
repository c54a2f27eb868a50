"""The stepping core: many rows of one twin, stepped together. Autoreset belongs to the shells above."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from world_env.batch import Context, State, replace, select
from world_env.codec import Codec
from world_env.errors import (
    InvalidActionError,
    InvalidOptionError,
    KnownFunctionError,
    ResetNeededError,
    SpaceMismatchError,
    StartsError,
)
from world_env.models.base import Prediction
from world_env.random import RowRandom, derive_seeds
from world_env.twin import Twin

ENDS = ("", "terminated", "horizon", "rollout", "uncertainty", "non_finite")
"""`info["end"]` by code: why a row's episode ended; "" while it goes on."""

ON_UNCERTAIN = ("ignore", "truncate", "terminate", "pessimistic")


@dataclass(frozen=True)
class SimulatorConfig:
    """How a twin is lived in.

    horizon: steps from the real start until truncation; None: the twin's.
    rollout_length: cap on one learned rollout, from wherever it began; None: none.
    termination: "threshold" (the twin's) or "sample" (by the predicted probability).
    on_uncertain: what happens past the uncertainty threshold. "pessimistic" terminates and pays the lowest reward in
        the data for every step left, so that leaving the data never pays.
    uncertainty_threshold: None: the twin's.
    uncertainty: whether to compute it; None: only where `on_uncertain` needs it.
    temperature: scale of the model's noise.
    dataset_starts: share of resets that begin from a state inside an episode of the data.
    """

    horizon: int | None = None
    rollout_length: int | None = None
    termination: str = "threshold"
    on_uncertain: str = "ignore"
    uncertainty_threshold: float | None = None
    uncertainty: bool | None = None
    temperature: float = 1.0
    dataset_starts: float = 0.0

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("termination", self.termination, ("threshold", "sample")),
            ("on_uncertain", self.on_uncertain, ON_UNCERTAIN),
        ):
            if value not in allowed:
                raise InvalidOptionError(f"{name} is {value!r}, expected one of {', '.join(map(repr, allowed))}")
        for name, length in (("horizon", self.horizon), ("rollout_length", self.rollout_length)):
            if length is not None and length < 1:
                raise InvalidOptionError(f"{name} is {length}, expected at least 1 step, or None")
        if not 0.0 <= self.dataset_starts <= 1.0 or self.temperature < 0.0:
            raise InvalidOptionError(
                f"dataset_starts is {self.dataset_starts} (expected a share in 0..1), "
                f"temperature {self.temperature} (expected >= 0)"
            )


@dataclass(frozen=True)
class StepResult:
    """What one step of B rows shows; all arrays are fresh.

    observation: batched environment arrays. reward: (B,) float32. terminated, truncated: (B,) bool.
    end: (B,) int8 codes into ENDS. uncertainty: (B,) float32, or None where it is not computed.
    """

    observation: Any
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    end: np.ndarray
    uncertainty: np.ndarray | None


@dataclass(frozen=True)
class Snapshot:
    """All there is to some rows; restoring it replays the same future bit by bit.

    state: name -> (B, ...). seeds, draws: (B,) int64 of the noise. counters: (4, B) int64: elapsed, age, episode and
    row seed. finished: (B,) bool.
    """

    state: State
    seeds: Tensor
    draws: Tensor
    counters: np.ndarray
    finished: np.ndarray

    def __len__(self) -> int:
        return len(self.finished)


class Simulator:
    """B rows of a twin. `reset` some, `step` some, `snapshot`, `restore`, `fork`; finished rows wait for a reset."""

    def __init__(
        self, twin: Twin, num_rows: int, *, seed: int | None = None, config: SimulatorConfig | None = None
    ) -> None:
        if num_rows < 1:
            raise InvalidOptionError(f"num_rows is {num_rows}, expected at least 1")
        self.twin, self.num_rows, self.config = twin, num_rows, config or SimulatorConfig()
        self.codec: Codec = twin.codec
        self.horizon = self.config.horizon or twin.spec.horizon
        self.device = next(iter(twin.model.state_dict().values()), torch.zeros(())).device
        self._threshold = self.config.uncertainty_threshold or twin.uncertainty_threshold
        if self.config.on_uncertain != "ignore" and self._threshold is None:
            raise InvalidOptionError(
                f"on_uncertain={self.config.on_uncertain!r} needs a threshold, and this twin has none: pass "
                "uncertainty_threshold=..., or use 'ignore'"
            )
        if self.config.dataset_starts and twin.states is None:
            raise StartsError("dataset_starts asks for dataset states, but this twin holds only true starts: pass 0")
        asked = self.config.uncertainty
        self._uncertainty = self.config.on_uncertain != "ignore" if asked is None else asked
        self._seed_rows(secrets.randbits(48) if seed is None else seed)
        self._counters = np.zeros((2, num_rows), np.int64)
        self._state: State | None = None
        self.finished = np.ones(num_rows, bool)

    # -- reset ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def reset(
        self,
        rows: np.ndarray | None = None,
        *,
        seed: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Begin new episodes in `rows` ((B,) bool; None: all) and return all rows' observations.

        seed: row i gets the seed `seed` + i and starts its first episode; without, the next episode of its own.
        options: at most one of "observation" (environment arrays, one for each reset row), "context" (a dict with
            "observations" (n, K, ...), "actions" (n, K-1, ...), optional "elapsed" (n,)), "snapshot".
        Raises InvalidOptionError on anything else.
        """
        mask = self._mask(rows)
        options = dict(options or {})
        unknown = sorted(set(options) - {"observation", "context", "snapshot"})
        if unknown or len(options) > 1:
            raise InvalidOptionError(
                f"reset options {sorted(options)}: expected at most one of 'observation', 'context', 'snapshot'"
            )
        if self._state is None and not mask.all():
            raise ResetNeededError("the first reset must cover all rows: call reset() without a mask")
        if seed is not None:
            self._seed_rows(seed, mask)
        if "snapshot" in options:
            self.restore(options["snapshot"], rows=mask)
            return self.observe()
        index = np.flatnonzero(mask)
        random = RowRandom(derive_seeds(self._row_seeds, self._episodes)[torch.as_tensor(index)])
        context = self._context(options, len(index)) if options else self._draw_starts(random)
        state = self.twin.model.encode(context, random=random)
        self._episodes[mask] += 1
        self._place(index, state, random)
        self._counters[0, index] = context.elapsed.cpu().numpy()
        self._counters[1, index] = 0
        self.finished[index] = False
        return self.observe()

    def observe(self) -> Any:
        """The current observation of all rows, fresh environment arrays."""
        if self._state is None:
            raise ResetNeededError("nothing to observe yet: call reset() first")
        with torch.no_grad():
            return self.codec.decode_observation(self.twin.model.decode(self._state))

    # -- step ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, action: Any, rows: np.ndarray | None = None) -> StepResult:
        """Advance `rows` ((B,) bool; None: all) with actions (B, ...); other rows stay as they are.

        Raises ResetNeededError for a row whose episode is over, InvalidActionError for a bad action of a stepped row;
        after an error nothing has moved.
        """
        mask = self._mask(rows)
        if self._state is None or (self.finished & mask).any():
            over = np.flatnonzero(self.finished & mask)[:8].tolist()
            raise ResetNeededError(f"rows {over} have no running episode: call reset() before step()")
        encoded, action = self._encode_action(action, mask)
        random = self._random.clone()
        state, prediction = self.twin.model.step(
            self._state,
            encoded,
            random=random,
            temperature=self.config.temperature,
            uncertainty=self._uncertainty,
        )
        before = self.observe() if self.twin.known or not mask.all() else None
        decoded = self.twin.model.decode(state)
        finite = _finite_rows(decoded) & torch.isfinite(prediction.reward) & torch.isfinite(prediction.terminated)
        moved = torch.as_tensor(mask, device=self.device) & finite
        if not bool(moved.all()):
            # A row that did not move, or went to no number, keeps what it last showed.
            state = replace(self._state, moved, state)
            decoded = self.twin.model.decode(state)
        observation = self.codec.decode_observation(decoded)
        if mask.all():
            self._random = random
        else:
            self._random.replace(torch.as_tensor(mask, device=self.device), random)
        self._state = state
        self._counters[:, mask] += 1
        return self._outcome(before, action, observation, prediction, mask, finite.cpu().numpy())

    def _outcome(
        self,
        before: Any,
        action: Any,
        observation: Any,
        prediction: Prediction,
        mask: np.ndarray,
        finite: np.ndarray,
    ) -> StepResult:
        terminated = self._terminated(before, action, observation, prediction) & mask & finite
        reward = self._reward(before, action, observation, prediction, terminated)
        end = np.where(terminated, ENDS.index("terminated"), 0).astype(np.int8)
        elapsed, age = self._counters
        uncertainty = None
        if prediction.uncertainty is not None:
            uncertainty = prediction.uncertainty.float().cpu().numpy().copy()
            if self.config.on_uncertain != "ignore" and self._threshold is not None:
                cut = (uncertainty > self._threshold) & mask & (end == 0)
                end[cut] = ENDS.index("uncertainty")
                if self.config.on_uncertain == "pessimistic":
                    reward = np.where(cut, self._worst_rest(elapsed), reward).astype(np.float32)
                if self.config.on_uncertain in ("terminate", "pessimistic"):
                    terminated |= cut
        if self.config.rollout_length is not None:
            end[(end == 0) & mask & (age >= self.config.rollout_length)] = ENDS.index("rollout")
        if self.horizon is not None:
            # The task's own limit names the end where both apply.
            at_limit = mask & (elapsed >= self.horizon) & ((end == 0) | (end == ENDS.index("rollout")))
            end[at_limit] = ENDS.index("horizon")
        end[mask & ~finite] = ENDS.index("non_finite")
        reward = np.where(mask & finite, reward, 0.0).astype(np.float32)
        self.finished = self.finished | (end != 0)
        return StepResult(observation, reward, terminated, (end != 0) & ~terminated, end, uncertainty)

    def _terminated(self, before: Any, action: Any, after: Any, prediction: Prediction) -> np.ndarray:
        if self.twin.termination_fn is not None:
            ends = np.asarray(self.twin.termination_fn(before, action, after))
            return _check_known(ends, self.num_rows, "termination_fn").astype(bool)
        probability = prediction.terminated
        if self.config.termination == "sample":
            random = RowRandom(self._random.seeds, self._random.draws)
            draw = random.uniform(1, dtype=probability.dtype).squeeze(-1)
            self._random = random
            return (draw < probability).cpu().numpy()
        return (probability > self.twin.termination_threshold).cpu().numpy()

    def _reward(
        self, before: Any, action: Any, after: Any, prediction: Prediction, terminated: np.ndarray
    ) -> np.ndarray:
        if self.twin.reward_fn is not None:
            reward = np.asarray(self.twin.reward_fn(before, action, after))
            return _check_known(reward, self.num_rows, "reward_fn").astype(np.float32)
        reward = prediction.reward.float().cpu().numpy()
        if prediction.terminal_reward is not None:
            reward = np.where(terminated, prediction.terminal_reward.float().cpu().numpy(), reward)
        return self.codec.clip_reward(reward)

    def _worst_rest(self, elapsed: np.ndarray) -> np.ndarray:
        lowest = 0.0 if self.twin.ranges is None else self.twin.ranges.reward[0]
        left = 1 if self.horizon is None else np.maximum(self.horizon - elapsed, 0) + 1
        return np.asarray(min(lowest, 0.0) * left, np.float32)

    # -- snapshots -----------------------------------------------------------------------------------------------

    def snapshot(self, rows: np.ndarray | None = None) -> Snapshot:
        """All there is to `rows` ((B,) bool or indices; None: all), independent of what happens next."""
        if self._state is None:
            raise ResetNeededError("nothing to snapshot yet: call reset() first")
        index = torch.as_tensor(self._index(rows))
        counters = np.concatenate([self._counters, [self._episodes.numpy(), self._row_seeds.numpy()]])
        return Snapshot(
            {name: value[index].clone() for name, value in self._state.items() if not name.startswith("cache.")},
            self._random.seeds[index].clone(),
            self._random.draws[index].clone(),
            counters[:, index.numpy()].copy(),
            self.finished[index.numpy()].copy(),
        )

    def restore(
        self, snapshot: Snapshot, rows: np.ndarray | None = None, *, fresh_noise: bool = False
    ) -> None:
        """Put the rows of a snapshot into `rows` ((B,) bool or indices; None: all).

        fresh_noise: keep each row's own stream of noise instead of the stored one: another future from one past.
        """
        if not isinstance(snapshot, Snapshot):
            raise InvalidOptionError(f"expected a Snapshot from snapshot(), got {type(snapshot).__name__}")
        index = self._index(rows)
        if len(index) != len(snapshot):
            raise InvalidOptionError(f"the snapshot holds {len(snapshot)} rows, but {len(index)} are to be restored")
        if self._state is not None and not all(
            name in self._state and self._state[name].shape[1:] == value.shape[1:]
            for name, value in snapshot.state.items()
        ):
            raise SpaceMismatchError(f"the snapshot holds the state {sorted(snapshot.state)} of another twin")
        random = RowRandom(snapshot.seeds, snapshot.draws)
        if fresh_noise:
            random = RowRandom(derive_seeds(self._row_seeds, self._episodes)[torch.as_tensor(index)])
            self._episodes[index] += 1
        else:
            self._episodes[index] = torch.as_tensor(snapshot.counters[2])
            self._row_seeds[index] = torch.as_tensor(snapshot.counters[3])
        self._place(index, snapshot.state, random)
        self._counters[:, index] = snapshot.counters[:2]
        self.finished[index] = snapshot.finished

    def fork(self, rows: np.ndarray | None = None, n: int = 1, *, seed: int | None = None) -> Simulator:
        """A new simulator with `n` futures of each of `rows`, one after another, each with noise of its own."""
        index = np.repeat(self._index(rows), n)
        other = Simulator(self.twin, len(index), seed=seed, config=self.config)
        other.restore(self.snapshot(index), fresh_noise=True)
        return other

    # -- details -------------------------------------------------------------------------------------------------

    def _seed_rows(self, seed: int, mask: np.ndarray | None = None) -> None:
        fresh = RowRandom.from_seed(int(seed), self.num_rows).seeds
        if mask is None:
            self._row_seeds = fresh
            self._episodes = torch.zeros(self.num_rows, dtype=torch.int64)
            self._random = RowRandom(fresh.clone())
        else:
            rows = torch.as_tensor(mask)
            self._row_seeds = torch.where(rows, fresh, self._row_seeds)
            self._episodes = torch.where(rows, torch.zeros_like(fresh), self._episodes)

    def _draw_starts(self, random: RowRandom) -> Context:
        twin, rows = self.twin, len(random)
        if self.config.dataset_starts == 0.0 or twin.states is None:
            return twin.starts.select(random.integers(len(twin.starts)))
        inside = random.uniform(1).squeeze(-1) < self.config.dataset_starts
        fraction = random.uniform(1, dtype=torch.float64).squeeze(-1)
        true = twin.starts.select((fraction * len(twin.starts)).long())
        middle = twin.states.select((fraction * len(twin.states)).long())
        if true.actions.shape != middle.actions.shape:
            raise StartsError("true starts and dataset states have contexts of different lengths")
        merged = replace(_tensors(true), inside, _tensors(middle))
        assert len(merged["length"]) == rows
        return Context(
            {key: merged[f"observations.{key}"] for key in true.observations},
            merged["actions"],
            merged["length"],
            merged["elapsed"],
        )

    def _context(self, options: Mapping[str, Any], rows: int) -> Context:
        if "observation" in options:
            observation = self.codec.encode_observation(options["observation"], device=self.device)
            context = Context.from_observation(observation, self.codec.action_size)
        else:
            context = self._given_context(options["context"])
        if len(context) != rows:
            raise InvalidOptionError(f"{rows} rows are reset, but the option holds {len(context)}")
        return context

    def _given_context(self, given: Any) -> Context:
        if not isinstance(given, Mapping) or not {"observations", "actions"} <= set(given) <= {
            "observations",
            "actions",
            "elapsed",
        }:
            raise InvalidOptionError(
                "options['context'] is a dict with 'observations' (n, K, ...), 'actions' (n, K-1, ...) and, "
                f"if known, 'elapsed' (n,); got {sorted(given) if isinstance(given, Mapping) else type(given)}"
            )
        observations, actions = given["observations"], np.asarray(given["actions"])
        rows, steps = actions.shape[:2]
        flat = _fold(observations)
        encoded = self.codec.encode_observation(flat, device=self.device)
        if any(value.shape[0] != rows * (steps + 1) for value in encoded.values()):
            raise InvalidOptionError(f"a context holds one observation more than actions; actions are {actions.shape}")
        pushed = self.codec.encode_action(actions.reshape(rows * steps, *actions.shape[2:]), device=self.device)
        elapsed = torch.as_tensor(np.asarray(given.get("elapsed", np.full(rows, steps)), np.int64))
        return Context(
            {key: value.unflatten(0, (rows, steps + 1)) for key, value in encoded.items()},
            pushed.unflatten(0, (rows, steps)) if steps else pushed.reshape(rows, 0, self.codec.action_size),
            torch.full((rows,), steps + 1, dtype=torch.int64),
            elapsed,
        )

    def _encode_action(self, action: Any, mask: np.ndarray) -> tuple[Tensor, Any]:
        action = np.asarray(action)
        if action.shape[:1] != (self.num_rows,):
            raise InvalidActionError(
                f"{self.num_rows} rows need a batch of {self.num_rows} actions, got the shape {action.shape}"
            )
        if mask.all():
            return self.codec.encode_action(action, device=self.device), action
        encoded = torch.zeros(self.num_rows, self.codec.action_size, device=self.device)
        encoded[torch.as_tensor(mask)] = self.codec.encode_action(action[mask], device=self.device)
        return encoded, action

    def _place(self, index: np.ndarray, state: State, random: RowRandom) -> None:
        """Write rows into the state; a new tensor, because snapshots may share the old one."""
        where = torch.as_tensor(index)
        if self._state is None:
            if len(index) != self.num_rows:
                raise ResetNeededError("the first reset or restore must cover all rows")
            order = torch.argsort(where)
            self._state = select(state, order)
        else:
            self._state = {name: value.index_copy(0, where, state[name]) for name, value in self._state.items()}
        self._random.seeds = self._random.seeds.index_copy(0, where, random.seeds)
        self._random.draws = self._random.draws.index_copy(0, where, random.draws)

    def _mask(self, rows: np.ndarray | None) -> np.ndarray:
        if rows is None:
            return np.ones(self.num_rows, bool)
        mask = np.asarray(rows)
        if mask.dtype != bool or mask.shape != (self.num_rows,):
            raise InvalidOptionError(
                f"rows are chosen by a bool mask of shape ({self.num_rows},), got {mask.dtype} {mask.shape}"
            )
        return mask

    def _index(self, rows: Any) -> np.ndarray:
        if rows is None:
            return np.arange(self.num_rows)
        array = np.atleast_1d(np.asarray(rows))
        return np.flatnonzero(self._mask(array)) if array.dtype == bool else array


def _tensors(context: Context) -> dict[str, Tensor]:
    return {f"observations.{key}": value for key, value in context.observations.items()} | {
        "actions": context.actions,
        "length": context.length,
        "elapsed": context.elapsed,
    }


def _fold(observations: Any) -> Any:
    """(n, K, ...) arrays, or a dict of them, as (n * K, ...)."""
    if isinstance(observations, Mapping):
        return {key: _fold(value) for key, value in observations.items()}
    array = np.asarray(observations)
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])


def _finite_rows(tensors: dict[str, Tensor]) -> Tensor:
    return torch.stack([torch.isfinite(value.flatten(1)).all(1) for value in tensors.values()]).all(0)


def _check_known(values: np.ndarray, rows: int, name: str) -> np.ndarray:
    if values.shape != (rows,) or not np.isfinite(values.astype(float)).all():
        raise KnownFunctionError(f"{name} returned the shape {values.shape}, expected ({rows},) finite values")
    return values
