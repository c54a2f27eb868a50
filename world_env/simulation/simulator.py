"""Simulator of parallel environments of one twin. Autoreset is done by the environments of `world_env.envs`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from world_env.batch import State, replace, select
from world_env.codec import Codec
from world_env.device import torch_defaults, without_gradients
from world_env.errors import (
    InitialStatesError,
    InvalidActionError,
    InvalidOptionError,
    ResetNeededError,
    SpaceMismatchError,
)
from world_env.rng import CounterRNG, derive_seeds
from world_env.simulation.conditioning import conditioned, default_conditioning, with_given
from world_env.simulation.config import ON_UNCERTAIN, SimulatorConfig, whole_number
from world_env.simulation.initial_states import (
    draw_initial_states,
    given_initial_states,
    reset_options,
)
from world_env.simulation.observation_mode import ObservationView
from world_env.simulation.snapshot import (
    Seeds,
    Snapshot,
    as_index,
    as_mask,
    both,
    reseeded,
    row_seeds,
)
from world_env.simulation.step_outputs import (
    FRAME,
    StepResult,
    array,
    check_known,
    extra_arrays,
    finite_rows,
    prediction_arrays,
)
from world_env.simulation.termination import ENDS, EpisodeLimits, TerminalBounds
from world_env.twin.twin import Twin, device_and_dtype_of

__all__ = ["ENDS", "ON_UNCERTAIN", "Simulator", "SimulatorConfig", "Snapshot",
           "StepResult"]  # fmt: skip

_CACHE = "cache."
"""Prefix of state entries that the model can rebuild; snapshots do not hold them."""


class Simulator:
    """Parallel environments of one twin, stepped with one model call.

    `reset` and `step` take a mask of environments; `snapshot`, `restore` and `fork` copy them. An environment whose
    episode has ended must be reset before its next step: the simulator has no autoreset.

    twin: the twin. num_rows: number of environments B (`num_envs`). seed: environment i gets the seed `seed` + i;
    None: a random seed. config: simulation options.

    finished: (B,) bool, True if the episode is over or not started. view: observation mode; `view.space` is the
    observation space of one environment. horizon: time limit in steps, or None.

    Raises InvalidOptionError for a wrong option, InitialStatesError if `dataset_starts` needs states that the twin
    does not have.
    """

    @torch_defaults()
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
        self.device, self.dtype = device_and_dtype_of(twin)
        self.horizon = (
            twin.spec.horizon if self.config.horizon is None else int(self.config.horizon)
        )
        threshold = self.config.uncertainty_threshold
        threshold = twin.uncertainty_threshold if threshold is None else threshold
        if self.config.on_uncertain != "ignore" and threshold is None:
            raise InvalidOptionError(
                f"on_uncertain={self.config.on_uncertain!r} needs a threshold, and this twin has none: pass "
                "uncertainty_threshold, or use on_uncertain='ignore'"
            )
        if self.config.dataset_starts and twin.states is None:
            raise InitialStatesError(
                f"dataset_starts is {self.config.dataset_starts}, but this twin has only real initial states and none "
                "inside data episodes: use dataset_starts=0"
            )
        lowest = 0.0 if twin.ranges is None else twin.ranges.reward[0]
        # float32, as the model's probabilities: the comparison must not depend on numpy's casting rules.
        self._termination_threshold = np.float32(twin.termination_threshold)
        rule = self.config.termination
        self._samples_ends = (twin.termination if rule is None else rule) == "sample"
        self._bounds = TerminalBounds(twin.ranges)
        self.view = ObservationView(twin, self.config.observation_mode)
        self._limits = EpisodeLimits(self.config, self.horizon, threshold, lowest)
        self._model = twin.model.for_inference()
        self._known = bool(twin.known)
        # Known functions and hard termination bounds read decoded observations.
        self._decodes = self.view.decodes or self._known or bool(self._bounds)
        option = self.config.uncertainty
        self._uncertainty = self.config.on_uncertain != "ignore" if option is None else option
        self._row_seeds = row_seeds(secrets.randbits(48) if seed is None else seed, num_rows)
        self._episodes = torch.zeros(num_rows, dtype=torch.int64, device="cpu")
        self._rng = CounterRNG(self._row_seeds.to(self.device))
        self._counters = np.zeros((2, num_rows), np.int64)
        self._state: State | None = None
        self._conditioning: dict[str, Tensor] = {}
        if twin.model.conditioning or self.config.conditioning:
            given = self.config.conditioning
            self._conditioning = default_conditioning(twin.model, given, num_rows)
        self._frames: dict[int, np.ndarray] = {}
        self.finished = np.ones(num_rows, bool)

    # -- reset ---------------------------------------------------------------------------------------------------

    @without_gradients
    def reset(
        self,
        rows: np.ndarray | None = None,
        *,
        seed: Seeds | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Start new episodes and return the observations of all environments, (B, ...).

        rows: (B,) bool mask of the environments to reset; None: all.
        seed: environment i gets the seed `seed` + i, or the i-th of B seeds, and starts its first episode. None, for
            all or in the list: the environment keeps its seed and starts its next episode.
        options: at most one of "observation" (environment arrays (n, ...), one per reset environment), "context" (a
            dict with "observations" (n, K, ...), "actions" (n, K-1, ...), optional "elapsed" (n,)) and "snapshot" (a
            Snapshot of n environments; with a seed, its noise is replaced). "conditioning" (a dict, name -> (n, ...))
            holds for this and the next episodes of these environments; not with "snapshot", which contains it.
        Raises InvalidOptionError for other options, ResetNeededError if the first reset does not cover all
        environments. After an error the simulator is unchanged.
        """
        mask = as_mask(rows, self.num_rows)
        options = reset_options(options)
        given = options.pop("conditioning", None)
        if (
            set(options) - {"observation", "context", "snapshot"}
            or len(options) > 1
            or (given is not None and "snapshot" in options)
        ):
            keys = [*options, *([] if given is None else ["conditioning"])]
            raise InvalidOptionError(
                f"options has the keys {sorted(map(str, keys))}, expected at most one of 'observation', 'context', "
                "'snapshot', and optionally 'conditioning' (not with 'snapshot', which contains it)"
            )
        everywhere = bool(mask.all())
        conditioning = self._conditioning
        if given is not None:
            conditioning = with_given(self.twin.model, conditioning, given, np.flatnonzero(mask))
        if self._state is None and not everywhere:
            raise ResetNeededError(
                "the first reset must cover all environments: call reset() without a mask"
            )
        index = np.flatnonzero(mask)
        row_seeds, episodes = reseeded(seed, mask, self._row_seeds, self._episodes)
        if "snapshot" in options:
            self._check_snapshot(options["snapshot"], index)
            self._row_seeds, self._episodes = row_seeds, episodes
            self.restore(options["snapshot"], rows=mask, fresh_noise=seed is not None)
            return self.observe()
        # Indexing tensors is a large part of the cost of a reset of one environment.
        seeds = derive_seeds(*(v if everywhere else v[index] for v in (row_seeds, episodes)))
        rng = CounterRNG(seeds)
        if options:
            context = given_initial_states(options, self.codec, len(index))
        else:
            share = self.config.dataset_starts
            context = draw_initial_states(self.twin.starts, self.twin.states, share, rng)
        if conditioning:
            context = conditioned(context, conditioning, index)
        if self.device.type != "cpu":
            rng = CounterRNG(rng.seeds.to(self.device), rng.draws.to(self.device))
        state = self._model.encode(context.to(self.device, self.dtype), rng=rng)
        self._row_seeds, self._episodes = row_seeds, episodes
        self._conditioning = conditioning
        self._forget_frames(index)
        elapsed = context.elapsed.cpu().numpy()
        if everywhere:
            self._episodes += 1
            self._state = {name: value.contiguous() for name, value in state.items()}
            self._rng = rng
            self._counters[0], self._counters[1] = elapsed, 0
            self.finished[:] = False
        else:
            self._episodes[index] += 1
            self._place(index, state, rng)
            self._counters[0, index], self._counters[1, index] = elapsed, 0
            self.finished[index] = False
        return self.observe()

    @without_gradients
    def observe(self) -> Any:
        """Return new arrays with the current observations (B, ...), in the observation mode."""
        observation = self.decoded_observation() if self.view.decodes else None
        return self.view.combine(observation, self.view.latent(self._model, self._current_state()))

    @without_gradients
    def decoded_observation(self) -> Any:
        """Return the current observations in the real environment's form, in every observation mode."""
        return self.codec.decode_observation(self._model.decode(self._current_state()))

    def _current_state(self) -> State:
        if self._state is None:
            raise ResetNeededError("no observation before the first reset: call reset() first")
        return self._state

    # -- step ----------------------------------------------------------------------------------------------------

    @without_gradients
    def step(self, action: Any, rows: np.ndarray | None = None) -> StepResult:
        """Step environments with actions (B, ...), environment arrays of the action space.

        rows: (B,) bool mask of the environments to step; None: all. Other environments do not change: their reward
            is 0, and their actions are ignored.
        Raises ResetNeededError if an episode is over or not started, InvalidActionError for an action outside the
        action space, KnownFunctionError if a known function returns a wrong shape. After an error the simulator is
        unchanged.
        """
        mask = None if rows is None else as_mask(rows, self.num_rows)
        over = self.finished if mask is None else self.finished & mask
        if self._state is None or over.any():
            raise ResetNeededError(self._no_episode(over))
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
        predicted = prediction_arrays(prediction)
        extras = extra_arrays(prediction.extras) if prediction.extras else {}
        decoded, latent = self._decode(state)
        finite = finite_rows([*decoded.values(), *([] if latent is None else [latent])], predicted)
        moved = both(mask, finite)
        if moved is not None:
            # An environment that did not step, or whose prediction is not finite, keeps its last state.
            state = replace(self._state, torch.as_tensor(moved, device=self.device), state)
            decoded, latent = self._decode(state)
        before = self.decoded_observation() if self._known else None
        observation = self.codec.decode_arrays(decoded) if self._decodes else None
        terminated = self._terminated(before, action, observation, predicted["terminated"], rng)
        reward = self._reward(before, action, observation, predicted, terminated)
        # Nothing below can fail, so the simulator may change.
        self._state = state
        if mask is None:
            self._rng = rng
            self._counters += 1
        else:
            self._rng = self._rng.merge(torch.as_tensor(mask, device=self.device), rng)
            self._counters[:, mask] += 1
        uncertainty = prediction.uncertainty
        uncertainties = None if uncertainty is None else array(uncertainty).copy()
        reward, terminated, end = self._limits.apply(
            reward, terminated, uncertainties, self._counters, mask, finite
        )
        ended = end != 0
        if ended.any():
            self.finished = self.finished | ended
        observation = self.view.combine(observation, latent)
        truncated = ended & ~terminated
        if FRAME in extras:
            stepped = range(self.num_rows) if mask is None else np.flatnonzero(mask).tolist()
            self._frames |= {row: extras[FRAME][row] for row in stepped}
        return StepResult(observation, reward, terminated, truncated, end, uncertainties, extras)

    def frame(self, row: int) -> np.ndarray | None:
        """Return the frame that the model predicted in the last step of an environment, (H, W, 3) uint8, or None."""
        return self._frames.get(row)

    def _no_episode(self, over: np.ndarray) -> str:
        """Return the message for a step of environments without a running episode. over: (B,) bool."""
        if self.num_rows == 1:
            return "step() called before reset() or after the episode ended: call reset() first"
        if self._state is None:
            return "step() called before reset(): call reset() first"
        return (
            f"step() called after the episodes of environments {np.flatnonzero(over)[:8].tolist()} ended: "
            "call reset() for these environments first"
        )

    def _decode(self, state: State) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """Return (encoded observations, latent features) of a state, each only if it is needed."""
        decoded = self._model.decode(state) if self._decodes else {}
        arrays = {key: value.numpy(force=True) for key, value in decoded.items()}
        return arrays, self.view.latent(self._model, state)

    def _terminated(
        self, before: Any, action: Any, after: Any, probability: np.ndarray, rng: CounterRNG
    ) -> np.ndarray:
        if self.twin.termination_fn is not None:
            ends = np.asarray(self.twin.termination_fn(before, action, after))
            return check_known(ends, self.num_rows, "termination_fn").astype(bool)
        if self._samples_ends:
            ends = array(rng.uniform(1).squeeze(-1)) < probability
        else:
            ends = probability > self._termination_threshold
        return ends | self._bounds.beyond(after) if self._bounds else ends

    def _reward(
        self,
        before: Any,
        action: Any,
        after: Any,
        predicted: dict[str, np.ndarray],
        terminated: np.ndarray,
    ) -> np.ndarray:
        if self.twin.reward_fn is not None:
            reward = np.asarray(self.twin.reward_fn(before, action, after))
            return check_known(reward, self.num_rows, "reward_fn").astype(np.float32)
        reward = predicted["reward"]
        if "terminal_reward" in predicted and terminated.any():
            reward = np.where(terminated, predicted["terminal_reward"], reward)
        return self.codec.clip_reward(reward)

    # -- snapshots -----------------------------------------------------------------------------------------------

    @without_gradients
    def snapshot(self, rows: Any = None) -> Snapshot:
        """Copy the complete state of environments.

        rows: (B,) bool mask or indices (which may repeat); None: all. Raises ResetNeededError before the first reset.
        """
        if self._state is None:
            raise ResetNeededError("no state before the first reset: call reset() first")
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
            select(self._conditioning, torch.as_tensor(index, device="cpu"))
            if self._conditioning
            else {},
        )

    @without_gradients
    def restore(self, snapshot: Snapshot, rows: Any = None, *, fresh_noise: bool = False) -> None:
        """Set environments to the states of a snapshot.

        rows: (B,) bool mask or indices; None: all.
        fresh_noise: do not restore the noise streams, so that the same state gets a different future.
        Raises InvalidOptionError if the numbers of environments differ, SpaceMismatchError for a snapshot of another
        twin.
        """
        index = as_index(rows, self.num_rows)
        self._check_snapshot(snapshot, index)
        if len(np.unique(index)) != len(index):
            raise InvalidOptionError(
                f"rows contains an environment twice: {index[:8].tolist()}. Pass each index once."
            )
        rng = CounterRNG(snapshot.seeds.to(self.device), snapshot.draws.to(self.device))
        if fresh_noise:
            fresh = derive_seeds(self._row_seeds[index], self._episodes[index])
            rng = CounterRNG(fresh.to(self.device))
        state = {name: value.to(self.device) for name, value in snapshot.state.items()}
        self._place(index, state, rng)
        if fresh_noise:
            self._episodes[index] += 1
        else:
            self._episodes[index] = torch.from_numpy(snapshot.counters[2])
            self._row_seeds[index] = torch.from_numpy(snapshot.counters[3])
        if self._conditioning:
            where = torch.from_numpy(index)
            self._conditioning = {
                name: value.index_copy(0, where, snapshot.conditioning[name])
                for name, value in self._conditioning.items()
            }
        self._forget_frames(index)
        self._counters[:, index] = snapshot.counters[:2]
        self.finished[index] = snapshot.finished

    @without_gradients
    def fork(self, rows: Any = None, n: int = 1, *, seed: int | None = None) -> Simulator:
        """Return a new simulator with `n` copies of each selected environment, in order, with independent noise.

        rows: (B,) bool mask or indices; None: all.
        seed: of the copies' noise; None: derived from the current noise streams, so that a replay forks identically.
        """
        n = whole_number(n, "n")
        chosen = as_index(rows, self.num_rows)
        index = np.repeat(chosen, n)
        snapshot = self.snapshot(index)
        other = Simulator(self.twin, len(index), seed=seed, config=self.config)
        if seed is None:
            place = derive_seeds(snapshot.seeds.cpu(), snapshot.draws.cpu())
            copies = torch.from_numpy(np.tile(np.arange(1, n + 1), len(chosen)))
            other._row_seeds = derive_seeds(place, copies)
        other.restore(snapshot, fresh_noise=True)
        return other

    # -- details -------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        finished = int(self.finished.sum())
        return f"Simulator({self.twin!r}, num_rows={self.num_rows}, horizon={self.horizon}, finished={finished})"

    def __getstate__(self) -> dict[str, Any]:
        # The prepared model is made again: it holds the weights a second time, and compiled code where numba is
        # installed, which the reader of a pickle may not have.
        return {name: value for name, value in vars(self).items() if name != "_model"}

    @torch_defaults()
    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._model = self.twin.model.for_inference()

    def _forget_frames(self, index: np.ndarray) -> None:
        if self._frames:
            for row in index.tolist():
                self._frames.pop(row, None)

    def _check_snapshot(self, snapshot: Any, index: np.ndarray) -> None:
        if not isinstance(snapshot, Snapshot):
            raise InvalidOptionError(
                f"snapshot must be a Snapshot from snapshot(), got {type(snapshot).__name__}"
            )
        if len(index) != len(snapshot):
            raise InvalidOptionError(
                f"snapshot holds {len(snapshot)} environments, but {len(index)} are selected: expected equal numbers"
            )
        if self._state is None:
            if len(index) != self.num_rows:
                raise ResetNeededError(
                    "the first reset or restore must cover all environments: call reset() first"
                )
            return
        expected = {n: v.shape[1:] for n, v in self._state.items() if not n.startswith(_CACHE)}
        got = {name: value.shape[1:] for name, value in snapshot.state.items()}
        if expected != got:
            raise SpaceMismatchError(
                f"snapshot is of another twin: its state has the shapes {got}, expected {expected}"
            )

    def _encode_action(self, action: Any, mask: np.ndarray | None) -> tuple[Tensor, Any]:
        action = np.asarray(action)
        if action.shape[:1] != (self.num_rows,):
            raise InvalidActionError(
                f"actions have shape {action.shape}, expected ({self.num_rows}, ...), one per environment"
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
        """Write environments into the state. Makes new tensors: snapshots and models may share the old ones."""
        where = torch.as_tensor(index, device=self.device)
        if len(index) == self.num_rows:
            self._state = select(state, torch.argsort(where))
        else:
            assert self._state is not None
            # An entry that the model can rebuild is dropped if one side does not have it.
            self._state = {
                name: value.index_copy(0, where, state[name])
                for name, value in self._state.items()
                if name in state
            }
        self._rng = CounterRNG(
            self._rng.seeds.index_copy(0, where, rng.seeds),
            self._rng.draws.index_copy(0, where, rng.draws),
        )
