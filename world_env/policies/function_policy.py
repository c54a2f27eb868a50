"""Policies without a state: functions, and the actions of logged episodes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from world_env.errors import InvalidActionError, InvalidOptionError
from world_env.lazy import imported
from world_env.policies.protocol import EpisodicPolicy, Policy


class FunctionPolicy(Policy):
    """Policy written as a function: batched observations -> batched actions.

    function: called with observations (R, ...), and with the indices (R,) of their environments if it takes two
        arguments.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._takes_indices = _positional(function) >= 2

    @classmethod
    def named(cls, name: str) -> FunctionPolicy:
        """Return the policy of a function by its name, "module:function".

        Raises InvalidOptionError for a name of another form, a module that cannot be imported, or no such function.
        """
        try:
            return cls(imported(name))
        except (ImportError, AttributeError, ValueError) as error:
            raise InvalidOptionError(
                f'cannot load the policy {name!r} ({error}): expected "module:function" of a function from batched '
                "observations to batched actions"
            ) from error

    def act(self, observations: Any, env_indices: np.ndarray) -> np.ndarray:
        """Return the actions of the function. Raises InvalidActionError unless there is one per environment."""
        arguments = (observations, env_indices) if self._takes_indices else (observations,)
        actions = np.asarray(self._function(*arguments))
        if actions.shape[:1] != (len(env_indices),):
            raise InvalidActionError(
                f"the policy function returned {actions!s:.80} of the shape {actions.shape}, expected one action for "
                f"each of {len(env_indices)} observations: an array of the shape ({len(env_indices)}, ...)"
            )
        return actions

    def fork(self, n: int) -> FunctionPolicy:
        """Return this policy, which has no state."""
        return self


@dataclass
class _Log:
    actions: np.ndarray
    step: int = 0


class LoggedActionsPolicy(EpisodicPolicy[_Log]):
    """Actions of logged episodes, one episode for each environment; after its end, its last action.

    actions: for each environment, the actions (T, ...) of its episode.
    """

    def __init__(self, actions: Sequence[np.ndarray]) -> None:
        super().__init__()
        self._actions = actions

    def reset(self, env_indices: np.ndarray, seeds: Sequence[int]) -> None:
        """Start at the first action of each episode."""
        self._episodes |= {int(index): _Log(self._actions[int(index)]) for index in env_indices}

    def act_one(self, observation: Any, episode: _Log) -> Any:
        """Return the next action."""
        episode.step += 1
        return episode.actions[min(episode.step, len(episode.actions)) - 1]


def _positional(function: Callable[..., Any]) -> int:
    """Number of required positional arguments; 1 where it is unknown."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)
