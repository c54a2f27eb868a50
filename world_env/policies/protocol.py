"""Protocol of policies: how every stage asks a policy for actions."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from world_env.errors import ResetNeededError
from world_env.spaces import row_of

_Episode = TypeVar("_Episode")
_Self = TypeVar("_Self", bound="EpisodicPolicy[Any]")


class Policy(ABC):
    """Policy that acts in one or more environments, each of which runs an episode of its own.

    Environments have indices 0..N-1. The actions in an environment depend on its own episode only: not on the other
    environments of a call, nor on their number. R is the number of environments in a call.
    """

    @property
    def uses_observations(self) -> bool:
        """Whether `replay` needs the observations of the stored episodes."""
        return False

    def reset(self, env_indices: np.ndarray, seeds: Sequence[int]) -> None:
        """Start an episode in these environments.

        env_indices: (R,) int. seeds: R seeds of the policy's random numbers in these episodes.
        """
        return None

    @abstractmethod
    def act(self, observations: Any, env_indices: np.ndarray) -> np.ndarray:
        """Return actions (R, ...) for observations (R, ...) of these environments; Dict observations are dicts."""

    def executed(self, actions: np.ndarray, env_indices: np.ndarray) -> None:
        """Report the executed actions (R, ...), which may differ from those of `act`.

        Call it after each step, before the next `act`. env_indices: (R,); an index may be repeated for successive
        steps of one environment.
        """
        return None

    def rewarded(self, rewards: np.ndarray, env_indices: np.ndarray) -> None:
        """Report the rewards (R,) of the executed actions, after `executed`. Only real episodes report them."""
        return None

    def replay(self, observations: Any, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Take a stored episode of T steps as one of environment 0, after its `reset`.

        A resumed collection calls it, for what a policy keeps across episodes.
        observations: (T + 1, ...); None if not `uses_observations`. actions: (T, ...). rewards: (T,).
        """
        self.executed(actions, np.zeros(len(actions), np.int64))

    @abstractmethod
    def fork(self, n: int) -> Policy:
        """Return an independent copy for `n` environments, each in the episode of environment 0, if one runs there."""


class EpisodicPolicy(Policy, Generic[_Episode]):
    """Base class of policies with a state for each episode. A subclass implements `begin` or `reset`, and `act_one`."""

    def __init__(self) -> None:
        self._episodes: dict[int, _Episode] = {}

    def begin(self, seed: int) -> _Episode:
        """Return the state at the start of an episode."""
        raise NotImplementedError

    def act_one(self, observation: Any, episode: _Episode) -> Any:
        """Return an action for one unbatched observation. Changes the state `episode` in place."""
        raise NotImplementedError

    def reset(self, env_indices: np.ndarray, seeds: Sequence[int]) -> None:
        """Start an episode in these environments."""
        for index, seed in zip(env_indices, seeds, strict=True):
            self._episodes[int(index)] = self.begin(int(seed))

    def act(self, observations: Any, env_indices: np.ndarray) -> np.ndarray:
        """Return actions (R, ...), one environment after another."""
        episodes = self.episodes(env_indices)
        return np.stack(
            [self.act_one(row_of(observations, i), each) for i, each in enumerate(episodes)]
        )

    def fork(self: _Self, n: int) -> _Self:
        """Return an independent copy for `n` environments in the episode of environment 0."""
        other = copy.copy(self)
        running = self._episodes.get(0)
        other._episodes = {} if running is None else {i: copy.deepcopy(running) for i in range(n)}
        return other

    def episodes(self, env_indices: np.ndarray) -> list[_Episode]:
        """Return the states of environments. Raises ResetNeededError where no episode was started."""
        return [episode_of(self._episodes, index) for index in env_indices]


def episode_of(episodes: Mapping[int, _Episode], index: int) -> _Episode:
    """Return the state of the episode in an environment. Raises ResetNeededError where none was started."""
    try:
        return episodes[int(index)]
    except KeyError as error:
        raise ResetNeededError(
            f"act() called in environment {error} before reset(): call reset(env_indices, seeds) first"
        ) from error
