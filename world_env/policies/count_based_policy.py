"""Exploration of tables: it tries the pairs of state and action that were tried least."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from world_env.errors import InvalidOptionError
from world_env.policies.protocol import EpisodicPolicy
from world_env.spaces import categories, category_sizes, observation_spaces, row_of
from world_env.spec import WorldSpec

_DISCOUNT = 0.9
_RANDOM_SHARE = 0.1
"""Share of uniform random actions. They keep the data from following the first transitions that were observed."""
_UNTRIED = 1.0 / (1.0 - _DISCOUNT)
"""Value of a pair that was never tried: the largest possible one."""
_SWEEPS = 100
_TOLERANCE = 0.01
_MAX_ACTIONS = 1_024


@dataclass
class _Episode:
    rng: np.random.Generator
    state: int | None = None
    pair: int | None = None
    """The last pair, until its successor is observed."""


class CountBasedPolicy(EpisodicPolicy[_Episode]):
    """Actions toward rarely tried pairs of state and action, where states and actions are categories.

    A table counts the transitions of all its episodes. Each action is the best one of this table under the reward
    1 / sqrt(n) for a pair that was tried n times: the exploration bonus of MBIE-EB (Strehl and Littman 2008, "An
    analysis of model-based interval estimation for Markov decision processes", section 3) without the reward of the
    task. Rewards are not used, so the data does not depend on them. 10 % of the actions are uniform random.

    spec: its spaces are Discrete, MultiDiscrete or MultiBinary, or a Dict of these.
    Raises InvalidOptionError for other spaces and for more than 1,024 actions.
    """

    def __init__(self, spec: WorldSpec) -> None:
        super().__init__()
        parts = observation_spaces(spec.observation_space) | {"action": spec.action_space}
        for name, part in parts.items():
            if not category_sizes(part):
                raise InvalidOptionError(
                    f"count-based exploration counts pairs of state and action, but {name!r} is a {part}: expected "
                    "categories (Discrete, MultiDiscrete or MultiBinary). Use random or held actions"
                )
        self._space = spec.action_space
        self._sizes, self._starts = categories(self._space)
        self._actions = math.prod(self._sizes.tolist())
        if self._actions > _MAX_ACTIONS:
            raise InvalidOptionError(
                f"count-based exploration tries each action in each state, but {self._space} has {self._actions} "
                f"actions: expected at most {_MAX_ACTIONS}. Use random or held actions"
            )
        self._table = _Table(self._actions)

    @property
    def uses_observations(self) -> bool:
        """True: `replay` counts the states of stored episodes."""
        return True

    def begin(self, seed: int) -> _Episode:
        """Start an episode, with values of all earlier ones."""
        self._table.plan()
        return _Episode(np.random.default_rng(seed))

    def act_one(self, observation: Any, episode: _Episode) -> Any:
        """Count the transition that led to this observation, and return the best action, or a random one."""
        self._arrive(observation, episode)
        if episode.rng.random() < _RANDOM_SHARE:
            number = int(episode.rng.integers(self._actions))
        else:
            values = self._table.values[episode.state]
            number = int(episode.rng.choice(np.flatnonzero(values == values.max())))
        components = np.array(np.unravel_index(number, self._sizes)) + self._starts
        return components.reshape(self._space.shape or ()).astype(self._space.dtype)

    def executed(self, actions: np.ndarray, env_indices: np.ndarray) -> None:
        """Count the executed actions."""
        for action, episode in zip(actions, self.episodes(env_indices), strict=True):
            self._try(action, episode)

    def replay(self, observations: Any, actions: np.ndarray) -> None:
        """Count the transitions of a stored episode."""
        (episode,) = self.episodes(np.zeros(1, np.int64))
        for step, action in enumerate(actions):
            self._arrive(row_of(observations, step), episode)
            self._try(action, episode)

    def fork(self, n: int) -> CountBasedPolicy:
        """Return an independent copy for `n` environments in the episode of environment 0."""
        other = super().fork(n)
        other._table = copy.deepcopy(self._table)
        return other

    def _arrive(self, observation: Any, episode: _Episode) -> None:
        parts = observation if isinstance(observation, dict) else {"": observation}
        key = b"".join(np.asarray(parts[name], np.int64).tobytes() for name in sorted(parts))
        episode.state = self._table.state(key)
        if episode.pair is not None:
            self._table.arrive(episode.pair, episode.state)
            episode.pair = None

    def _try(self, action: Any, episode: _Episode) -> None:
        if episode.state is None:
            return
        components = np.asarray(action, np.int64).reshape(-1) - self._starts
        number = int(np.ravel_multi_index(tuple(components), self._sizes))
        episode.pair = self._table.try_pair(episode.state, number)


class _Table:
    """Counts of observed transitions, and the value of each pair of state and action under the reward 1 / sqrt(n).

    The last step of an episode has no successor: the value after it is 0. Rows are states in the order of their first
    visit.
    """

    def __init__(self, actions: int) -> None:
        self.values = np.zeros((0, actions))
        self._tries = np.zeros((0, actions))
        self._states: dict[bytes, int] = {}
        self._successors: dict[int, dict[int, int]] = defaultdict(dict)
        """Pair -> successor -> count."""
        self._steps = 0
        """Steps since the last plan."""

    def state(self, key: bytes) -> int:
        """Row of a state; a new state gets one, all of whose actions are untried."""
        row = self._states.setdefault(key, len(self._states))
        if row == len(self.values):
            # Twice the size: one new row at a time would copy the table for each state.
            more = max(64, row)
            actions = self.values.shape[1]
            self.values = np.concatenate([self.values, np.full((more, actions), _UNTRIED)])
            self._tries = np.concatenate([self._tries, np.zeros((more, actions))])
        return row

    def try_pair(self, state: int, action: int) -> int:
        """Count a step and return the number of its pair."""
        pair = state * self.values.shape[1] + action
        self._tries[state, action] += 1
        self._steps += 1
        self._update(pair)
        return pair

    def arrive(self, pair: int, state: int) -> None:
        """Count the successor of a pair."""
        counts = self._successors[pair]
        counts[state] = counts.get(state, 0) + 1
        self._update(pair)

    def _update(self, pair: int) -> None:
        """Value iteration of one pair: a state loses value while it is visited."""
        state, action = divmod(pair, self.values.shape[1])
        later = sum(n * self.values[row].max() for row, n in self._successors[pair].items())
        tries = self._tries[state, action]
        self.values[state, action] = 1.0 / math.sqrt(tries) + _DISCOUNT * later / tries

    def plan(self) -> None:
        """Value iteration over all pairs, once there are as many new steps as states."""
        if self._steps < max(1, len(self._states)):
            return
        self._steps = 0
        lengths = [len(counts) for counts in self._successors.values()]
        pair = np.repeat(np.fromiter(self._successors, np.int64), lengths)
        successor = np.array([row for counts in self._successors.values() for row in counts], int)
        count = np.array([n for counts in self._successors.values() for n in counts.values()])
        tries = self._tries.ravel()
        share = count / tries[pair]
        bonus = 1.0 / np.sqrt(np.maximum(tries, 1.0))
        for _ in range(_SWEEPS):
            best = self.values.max(1)
            later = np.bincount(pair, share * best[successor], minlength=len(tries))
            updated = np.where(tries > 0, bonus + _DISCOUNT * later, _UNTRIED)
            change = np.abs(updated - self.values.ravel()).max()
            self.values = updated.reshape(self.values.shape)
            if change < _TOLERANCE:
                return
