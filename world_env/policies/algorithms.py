"""Stable-Baselines3 algorithms by name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from world_env.errors import InvalidOptionError, MissingExtraError

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm


_LIBRARIES = ("stable_baselines3", "sb3_contrib")


def algorithm_class(name: str) -> type[BaseAlgorithm]:
    """Return the class of a Stable-Baselines3 or sb3-contrib algorithm by its name, such as "PPO".

    Raises MissingExtraError without Stable-Baselines3, InvalidOptionError for an unknown name.
    """
    known: dict[str, type[BaseAlgorithm]] = {}
    for library in _LIBRARIES:
        try:
            module = importlib.import_module(library)
        except ImportError as error:
            if library == _LIBRARIES[0]:
                raise MissingExtraError(
                    'Stable-Baselines3 is not installed: pip install "world-env[train]"'
                ) from error
            continue

        known |= {n: c for n, c in vars(module).items() if (hasattr(c, "learn") and n.isupper())
                  or n in ("RecurrentPPO", "MaskablePPO", "CrossQ")}  # fmt: skip
    # Same algorithms and files as Stable-Baselines3, faster gradient updates.
    from world_env.policies.fast_sb3.ppo import PPO
    from world_env.policies.fast_sb3.sac import SAC

    known |= {"PPO": PPO, "SAC": SAC}
    if name not in known:
        raise InvalidOptionError(
            f"unknown algorithm {name!r}: expected one of {', '.join(sorted(known))}. "
            "More algorithms: pip install sb3-contrib"
        )
    return known[name]
