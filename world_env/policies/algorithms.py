"""Stable-Baselines3 algorithms by name."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING

from world_env.errors import InvalidOptionError, MissingExtraError
from world_env.types import JSON

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


def check_algo_options(kind: type[BaseAlgorithm], options: JSON) -> None:
    """Raise InvalidOptionError for names that are no constructor arguments of the algorithm."""
    parameters = inspect.signature(kind).parameters
    # `learn` sets these names itself.
    names = set(parameters) - {"policy", "env", "seed", "device", "_init_setup_model"}
    unknown = sorted(set(options) - names)
    if unknown and all(each.kind is not each.VAR_KEYWORD for each in parameters.values()):
        raise InvalidOptionError(
            f"unknown options {unknown} for {kind.__name__}: expected names among {sorted(names)}"
        )
