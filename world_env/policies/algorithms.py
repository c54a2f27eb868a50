"""Algorithms of Stable-Baselines3, sb3-contrib and SBX by name."""

from __future__ import annotations

import base64
import importlib
import inspect
import json
import logging
import zipfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import cloudpickle

from world_env.errors import InvalidOptionError, MissingExtraError, StageError
from world_env.types import JSON

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

_log = logging.getLogger(__name__)
_LIBRARIES = {"stable_baselines3": "", "sb3_contrib": "", "sbx": "sbx."}
"""Package -> prefix of its algorithms' names: SBX has the names of Stable-Baselines3."""
_PIP = {
    "stable_baselines3": 'pip install "world-env[train]"',
    "sb3_contrib": "pip install sb3-contrib",
    "sbx": "pip install sbx-rl",
}


def algorithm_class(name: str) -> type[BaseAlgorithm]:
    """Return the class of an algorithm by its name, such as "PPO", "RecurrentPPO" or "sbx.PPO".

    Raises MissingExtraError without Stable-Baselines3, InvalidOptionError for an unknown name.
    """
    known = _of_library("sbx" if name.startswith("sbx.") else "")
    if name not in known:
        raise InvalidOptionError(
            f"unknown algorithm {name!r}: expected one of {', '.join(sorted(known)) or 'none'}. "
            f"More algorithms: {_PIP['sb3_contrib']}, {_PIP['sbx']} (names sbx.PPO, sbx.SAC, ...)"
        )
    return known[name]


def algorithm_name(kind: type[BaseAlgorithm]) -> str:
    """Return the name of an algorithm, for `algorithm_class`; of a user's subclass, the name of the class it extends.

    Raises InvalidOptionError for a class of another library.
    """
    for each in kind.__mro__:
        library = each.__module__.partition(".")[0]
        if library in _LIBRARIES or library == __name__.partition(".")[0]:
            name = _LIBRARIES.get(library, "") + each.__name__
            if name in _algorithms(library if library in _LIBRARIES else "stable_baselines3"):
                return name
    raise InvalidOptionError(
        f"{kind.__module__}.{kind.__qualname__} extends no algorithm of Stable-Baselines3, sb3-contrib or SBX"
    )


def algorithm_of_zip(path: Path) -> type[BaseAlgorithm]:
    """Return the class of the algorithm that saved a .zip, which does not name it.

    It is the class whose policies the zip holds and whose constructor arguments are best covered by its data.
    Raises StageError for a file that is not such a zip, or an unknown kind of policy.
    """
    if not Path(path).exists():
        raise StageError(
            f"{path}: no such file. Give the .zip of `model.save`, or the folder of a policy"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            data = json.loads(archive.read("data"))
        policy = data["policy_class"]
        text = policy.get(":type:", "") + policy.get("__module__", "")
    except (OSError, KeyError, ValueError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise StageError(
            f"{path} is not a model that Stable-Baselines3 saved ({type(error).__name__}: {error}): give the .zip of "
            "`model.save`, or the folder of a policy"
        ) from error
    covered = _kinds(text, data) or _kinds(_bases(policy), data)
    if not covered:
        raise StageError(
            f"{path} holds a policy of an unknown class ({text or 'no name'}): expected one of Stable-Baselines3, "
            f"sb3-contrib ({_PIP['sb3_contrib']}) or SBX ({_PIP['sbx']})"
        )
    return max(covered, key=covered.__getitem__)


def _kinds(text: str, data: JSON) -> dict[type[BaseAlgorithm], float]:
    """Algorithm -> coverage of its arguments by the data of a .zip, of those whose policies a text names by module."""
    return {
        kind: _coverage(kind, data)
        for kind in _of_library("sbx" if "sbx" in text else "").values()
        if any(each.__module__ in text for each in kind.policy_aliases.values())
    }


def _bases(policy: JSON) -> str:
    """Modules of the classes that a stored class extends: a policy class of a user extends one of a library."""
    try:
        stored = cloudpickle.loads(base64.b64decode(policy[":serialized:"]))
    except Exception as error:  # the class is of a package that is not installed, or was renamed
        _log.info("the class of the policy cannot be loaded: %s", error)
        return ""
    return " ".join(each.__module__ for each in getattr(stored, "__mro__", ()))


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


def _of_library(library: str) -> dict[str, type[BaseAlgorithm]]:
    """Algorithms of SBX, or of the libraries that use torch: SBX imports JAX, so only on demand."""
    libraries = ["sbx"] if library == "sbx" else ["stable_baselines3", "sb3_contrib"]
    return {name: kind for each in libraries for name, kind in _algorithms(each).items()}


@cache
def _algorithms(library: str) -> dict[str, type[BaseAlgorithm]]:
    """Name -> class of the algorithms of one library; none where it is not installed."""
    try:
        from stable_baselines3.common.base_class import BaseAlgorithm
    except ImportError as error:
        raise MissingExtraError(
            f"Stable-Baselines3 is not installed: {_PIP['stable_baselines3']}"
        ) from error
    try:
        module = importlib.import_module(library)
    except ImportError:
        return {}
    prefix = _LIBRARIES[library]
    found = {
        prefix + name: kind
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, BaseAlgorithm)
    }
    if library == "stable_baselines3":
        # Same algorithms and files as Stable-Baselines3, faster gradient updates.
        from world_env.policies.fast_sb3.ppo import PPO
        from world_env.policies.fast_sb3.sac import SAC

        found |= {"PPO": PPO, "SAC": SAC}
    return found


def _coverage(kind: type[BaseAlgorithm], data: JSON) -> float:
    """Share of an algorithm's constructor arguments that the data of a zip has as attributes."""
    names = [name for each in kind.__mro__[:2] for name in inspect.signature(each).parameters]
    return sum(name in data for name in names) / len(names)
