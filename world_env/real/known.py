"""What a process has found out about real environments, which may be slow to start."""

from __future__ import annotations

import copy
import json
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from world_env.real.registered import origin_of
from world_env.spec import EnvConfig, python_object

_Fact = TypeVar("_Fact")


class Known(Generic[_Fact]):
    """Fact by environment: by its id, arguments and wrappers, not by `EnvConfig.horizon`.

    A fact is forgotten where the id is registered anew, or where the id is that of another Python object.
    """

    def __init__(self) -> None:
        self._facts: dict[str, tuple[Callable[[], Any], _Fact]] = {}

    def add(self, real: EnvConfig, fact: _Fact) -> None:
        """Remember a fact of an environment."""
        origin = _origin(real)
        if origin is not None:
            self._facts[_text(real)] = (weakref.ref(origin), copy.deepcopy(fact))

    def get(self, real: EnvConfig) -> _Fact | None:
        """Return a copy of the fact of an environment; None: unknown."""
        reference, fact = self._facts.get(_text(real), (None, None))
        origin = _origin(real)
        if reference is None or origin is None or reference() is not origin:
            return None
        # A copy: spaces hold random numbers.
        return copy.deepcopy(fact)

    def clear(self) -> None:
        """Forget everything."""
        self._facts.clear()


def _text(real: EnvConfig) -> str:
    return json.dumps(real.replace(horizon=None).to_json(), sort_keys=True)


def _origin(real: EnvConfig) -> Any:
    """What makes the environment: an object, or what its id names."""
    found = python_object(real.env_id)
    return origin_of(real.env_id) if found is None else found
