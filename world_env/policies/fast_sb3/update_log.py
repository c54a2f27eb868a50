"""Log of the update that trains a policy: the fast one, or that of Stable-Baselines3."""

from __future__ import annotations

import logging
from weakref import WeakSet

from stable_baselines3.common.base_class import BaseAlgorithm

_log = logging.getLogger(__name__)
# Not an attribute of the algorithm: Stable-Baselines3 pickles attributes when it saves.
_LOGGED: WeakSet[BaseAlgorithm] = WeakSet()


def log_update(model: BaseAlgorithm, not_covered: str | None) -> None:
    """Log, once per algorithm object, which update trains it.

    not_covered: why the fast update does not cover the configuration (WARNING); None: it does (INFO).
    """
    if model in _LOGGED:
        return
    _LOGGED.add(model)
    name = type(model).__name__
    if not_covered is None:
        _log.info(
            "%s: fast CPU update in use (same results as Stable-Baselines3 up to rounding)", name
        )
    else:
        _log.warning(
            "%s: fast CPU update not available (%s); the slower update of Stable-Baselines3 is in use",
            name,
            not_covered,
        )
