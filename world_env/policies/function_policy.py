"""Policies without a state: functions, and the actions of logged episodes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from world_env.errors import InvalidOptionError
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
        module, _, function = name.partition(":")
        try:
            return cls(getattr(importlib.import_module(module), function))
        except (ImportError, AttributeError, ValueError) as error:
            raise InvalidOptionError(
                f'cannot load the policy {name!r} ({error}): expected "module:function" of a function from batched '
                "observations to batched actions"
            ) from error

    def act(self, observations: Any, env_indices: np.ndarray) -> np.ndarray:
        """Return the actions of the function."""
        arguments = (observations, env_indices) if self._takes_indices else (observations,)
        return np.asarray(self._function(*arguments))

    def fork(self, n: int) -> FunctionPolicy:
        """Return this policy, which has no state."""
        return self


class LoggedActionsPolicy(EpisodicPolicy[list[int]]):
    """Actions of logged episodes, one episode for each environment; after its end, its last action.

    actions: for each environment, the actions (T, ...) of its episode.
    """

    def __init__(self, actions: Sequence[np.ndarray]) -> None:
        super().__init__()
        self._actions = actions

    def begin(self, seed: int) -> list[int]:
        """Start at the first action."""
        return [0]

    def act(self, observations: Any, env_indices: np.ndarray) -> np.ndarray:
        """Return the next actions."""
        taken = []
        for index, step in zip(env_indices, self.episodes(env_indices), strict=True):
            actions = self._actions[int(index)]
            taken.append(actions[min(step[0], len(actions) - 1)])
            step[0] += 1
        return np.stack(taken)


def _positional(function: Callable[..., Any]) -> int:
    """Number of required positional arguments; 1 where it is unknown."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)
