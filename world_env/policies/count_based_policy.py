"""Exploration of tables: it tries the pairs of state and action that were tried least."""

from __future__ import annotations

import copy
import math
from collections import Counter, defaultdict
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
_BONUS = 2.0
"""Exploration bonus of a pair that was tried once, in units of the range of the observed rewards."""
_UNTRIED = (1.0 + _BONUS) / (1.0 - _DISCOUNT)
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

    A table counts the transitions of all its episodes. Each action is the best one in this table for the mean reward of
    a pair plus an exploration bonus of 2 / sqrt(n), where n is how often the pair was tried and rewards are scaled to
    [0, 1]: MBIE-EB (Strehl and Littman 2008, "An analysis of model-based interval estimation for Markov decision
    processes", section 3). So the data covers all pairs, and those near good policies best. 10 % of the actions are
    uniform random.

    spec: its spaces are Discrete, MultiDiscrete or MultiBinary, or a Dict of these.
    Raises InvalidOptionError for other spaces and for more than 1,024 actions.
    """

    def __init__(self, spec: WorldSpec) -> None:
        super().__init__()
        parts = observation_spaces(spec.observation_space).items()
        for name, part in [*parts, ("action", spec.action_space)]:
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

    def rewarded(self, rewards: np.ndarray, env_indices: np.ndarray) -> None:
        """Add up the rewards of the pairs."""
        for reward, episode in zip(rewards, self.episodes(env_indices), strict=True):
            if episode.pair is not None:
                self._table.add_reward(episode.pair, float(reward))

    def replay(self, observations: Any, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Count the transitions of a stored episode."""
        (episode,) = self.episodes(np.zeros(1, np.int64))
        for step, action in enumerate(actions):
            self._arrive(row_of(observations, step), episode)
            self._try(action, episode)
            self.rewarded(rewards[[step]], np.zeros(1, np.int64))

    def fork(self, n: int) -> CountBasedPolicy:
        """Return an independent copy for `n` environments in the episode of environment 0."""
        other = super().fork(n)
        other._table = copy.deepcopy(self._table)
        return other

    def _arrive(self, observation: Any, episode: _Episode) -> None:
        parts = observation if isinstance(observation, dict) else {"": observation}
        key = b"".join(np.asarray(parts[name], np.int64).tobytes() for name in sorted(parts))
        first = episode.state is None
        episode.state = self._table.state(key)
        if first:
            self._table.starts[episode.state] += 1
        elif episode.pair is not None:
            self._table.arrive(episode.pair, episode.state)
            episode.pair = None

    def _try(self, action: Any, episode: _Episode) -> None:
        if episode.state is None:
            return
        components = np.asarray(action, np.int64).reshape(-1) - self._starts
        number = int(np.ravel_multi_index(tuple(components), self._sizes))
        episode.pair = self._table.try_pair(episode.state, number)


class _Table:
    """Transitions and rewards of all episodes, and the value of each pair of state and action.

    Rows are states in the order of their first visit. The last step of an episode has no successor. The value after it
    is that of the start states: an episode that ends costs no steps, so ends are not avoided.
    """

    def __init__(self, actions: int) -> None:
        self.values = np.zeros((0, actions))
        self.starts: Counter[int] = Counter()
        """Start state -> number of episodes."""
        self._tries = np.zeros((0, actions))
        self._rewards = np.zeros((0, actions))
        """Sum of the rewards of each pair."""
        self._range = [math.inf, -math.inf]
        self._states: dict[bytes, int] = {}
        self._successors: dict[int, Counter[int]] = defaultdict(Counter)
        """Pair -> successor -> count."""
        self._start_value = _UNTRIED
        """Mean value of the start states at the last plan."""
        self._steps = 0
        """Steps since the last plan."""

    def state(self, key: bytes) -> int:
        """Row of a state; a new state gets one, all of whose actions are untried."""
        row = self._states.setdefault(key, len(self._states))
        if row == len(self.values):
            # Twice the size: one new row at a time would copy the table for each state.
            more = np.zeros((max(64, row), self.values.shape[1]))
            self.values = np.concatenate([self.values, more + _UNTRIED])
            self._tries = np.concatenate([self._tries, more])
            self._rewards = np.concatenate([self._rewards, more])
        return row

    def try_pair(self, state: int, action: int) -> int:
        """Count a step and return the number of its pair."""
        self._tries[state, action] += 1
        self._steps += 1
        return state * self.values.shape[1] + action

    def add_reward(self, pair: int, reward: float) -> None:
        """Add the reward of a step that was counted."""
        self._rewards.flat[pair] += reward
        low, high = self._range
        self._range = [min(low, reward), max(high, reward)]
        self._update(pair)

    def arrive(self, pair: int, state: int) -> None:
        """Count the successor of a pair."""
        self._successors[pair][state] += 1
        self._update(pair)

    def _update(self, pair: int) -> None:
        """Value iteration of one pair: a state loses value while it is visited."""
        tries = self._tries.flat[pair]
        later = _mean_value(self.values, self._successors[pair])
        ended = (tries - self._successors[pair].total()) / tries
        later = (1.0 - ended) * later + ended * self._start_value
        reward = self._scaled(self._rewards.flat[pair] / tries)
        self.values.flat[pair] = reward + _BONUS / math.sqrt(tries) + _DISCOUNT * later

    def _scaled(self, rewards: Any) -> Any:
        """Rewards in units of their range, from its lower end."""
        low, high = self._range
        return (rewards - low) / (high - low) if high > low else 0.0 * rewards

    def plan(self) -> None:
        """Value iteration over all pairs, once there are as many new steps as states."""
        if self._steps < max(1, len(self._states)):
            return
        self._steps = 0
        lengths = [len(counts) for counts in self._successors.values()]
        pair = np.repeat(np.fromiter(self._successors, np.int64), lengths)
        successor = np.array([row for counts in self._successors.values() for row in counts], int)
        count = np.array([n for counts in self._successors.values() for n in counts.values()])
        tried = np.maximum(self._tries.ravel(), 1.0)
        share = count / tried[pair]
        ended = 1.0 - np.bincount(pair, share, minlength=len(tried))
        now = self._scaled(self._rewards.ravel() / tried) + _BONUS / np.sqrt(tried)
        for _ in range(_SWEEPS):
            best = self.values.max(1)
            later = np.bincount(pair, share * best[successor], minlength=len(tried))
            self._start_value = _mean_value(self.values, self.starts)
            later = later + ended * self._start_value
            updated = np.where(self._tries.ravel() > 0, now + _DISCOUNT * later, _UNTRIED)
            change = np.abs(updated - self.values.ravel()).max()
            self.values = updated.reshape(self.values.shape)
            if change < _TOLERANCE:
                return


def _mean_value(values: np.ndarray, counts: Counter[int]) -> float:
    """Mean value of states, weighted by their counts; 0 without any."""
    total = sum(n * float(values[state].max()) for state, n in counts.items())
    return total / max(1, counts.total())
