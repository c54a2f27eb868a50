"""Creation of the environment of a Gymnasium id, and errors that help to find the right id."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import DependencyNotInstalled

from world_env.errors import MissingExtraError, StageError
from world_env.types import JSON

_EXTRAS = {
    "mujoco": "mujoco",
    "box2d": "box2d",
    "classic_control": "classic",
    "toy_text": "classic",
}
"""Part of a Gymnasium entry point -> extra of this package that installs its simulator."""
_PACKAGE = __name__.partition(".")[0]
_FORMS = (
    'Write an environment of another package as "module:Id", where importing the module registers the id, or as '
    '"module:Class" or "module:function".'
)
_VERSION = re.compile(r"-v\d+$")


def make_registered(env_id: str, arguments: JSON) -> gym.Env[Any, Any]:
    """Make the environment of an id, or of "module:Class" or "module:function" if no id has this name.

    Raises StageError for an unknown id, for arguments that it does not take and for an id of a learned environment,
    MissingExtraError for a missing simulator.
    """
    module, colon, name = env_id.rpartition(":")
    if colon:
        import_module(module, f"the module of environment {env_id!r}")
    origin = origin_of(env_id)
    if origin is not None and not isinstance(origin, EnvSpec):
        return _made_by(origin, env_id, arguments)
    versions = _registered_versions(name)
    check_is_real(env_id, bool(versions) and all(map(is_learned, versions)))
    try:
        # The checker of Gymnasium slows down every step and repeats its warnings.
        return gym.make(env_id, disable_env_checker=True, **arguments)
    except DependencyNotInstalled as error:
        raise MissingExtraError(
            f"the simulator of {env_id!r} is not installed ({error}). {_pip_line(env_id)}"
        ) from error
    except ModuleNotFoundError as error:
        raise StageError(
            f"environment {env_id!r} needs the module {error.name!r}, which is not installed: install its package, or "
            "correct the entry point where the id is registered"
        ) from error
    except (gym.error.UnregisteredEnv, gym.error.DeprecatedEnv) as error:
        # The text of Gymnasium's error is left out: it suggests ids of learned environments.
        raise StageError(f"unknown environment id {env_id!r}. {_similar_ids(env_id)}") from error


def origin_of(env_id: str) -> Any:
    """What makes the environment of an id: its entry in the registry, or else the attribute of an imported module.

    None for an unknown id, and for one whose module is not imported.
    """
    module, _, name = env_id.rpartition(":")
    registered = gym.registry.get(name)
    return getattr(sys.modules.get(module), name, None) if registered is None else registered


def _made_by(maker: Any, env_id: str, arguments: JSON) -> gym.Env[Any, Any]:
    """The environment of a class or a function of a module that registers no id for it."""
    if not callable(maker):
        raise StageError(
            f"{env_id!r} is an object of type {type(maker).__name__}, expected a class or a function that makes one "
            "gymnasium.Env, or a registered id"
        )
    try:
        # Arguments that do not fit are an error of the command; a TypeError inside is one of the environment.
        inspect.signature(maker).bind(**arguments)
    except TypeError as error:
        raise StageError(
            f"cannot make {env_id!r} with the arguments {arguments}: {error}. Check the arguments (--env-kwargs)."
        ) from error
    except ValueError:  # of compiled code
        pass
    return check_is_env(maker(**arguments), env_id)


def check_is_env(env: Any, env_id: str) -> gym.Env[Any, Any]:
    """Return what a function returned. Raises StageError unless it is one environment."""
    if not isinstance(env, gym.Env):
        raise StageError(
            f"{env_id} returned an object of type {type(env).__module__}.{type(env).__name__}, expected one "
            "gymnasium.Env. Environments of the package gym, and vectors of environments, are not supported"
        )
    return env


def import_module(name: str, called: str) -> Any:
    """Import a module, also one of the working directory, as `python -m` does. It hides nothing that is installed.

    called: what the module is for, in the error.
    Raises StageError, with the folder that was searched, if it is not found.
    """
    here = os.getcwd()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        top = name.partition(".")[0]
        if error.name != top or not top:
            if error.name is None or not name.startswith(error.name):
                raise StageError(
                    f"cannot import {called}: {name} needs the module {error.name!r}, which is not installed"
                ) from error
        elif here not in sys.path and any(
            (Path(here) / part).exists() for part in (f"{top}.py", top)
        ):
            sys.path.append(here)
            return import_module(name, called)
        written = name.removesuffix(".py").replace("/", ".")
        hint = "" if written == name else f" Write {written} in place of {name}."
        raise StageError(
            f"cannot import {called} ({error}): {name!r} is neither installed nor in the working directory {here}. "
            f"Run in the folder of {top}.py, install its package (pip install -e FOLDER), or add its folder to "
            f"PYTHONPATH.{hint} {_FORMS}"
        ) from error


def is_learned(spec: EnvSpec) -> bool:
    """Whether a Gymnasium spec makes a learned environment of this package instead of a real one."""
    return any(map(is_ours, (spec.entry_point, spec.vector_entry_point)))


def is_ours(entry_point: Any) -> bool:
    """Whether an entry point is, or derives from, a class of this package."""
    if isinstance(entry_point, str):
        modules = [entry_point.partition(":")[0]]
    else:
        parts = entry_point.__mro__ if isinstance(entry_point, type) else (entry_point,)
        modules = [getattr(part, "__module__", None) or "" for part in parts]
    return any(module.partition(".")[0] == _PACKAGE for module in modules)


def check_is_real(env_id: str, learned: bool) -> None:
    """Raise StageError where a learned environment is used as a real one."""
    if learned:
        raise StageError(
            f"{env_id!r} is a learned environment (a world model), expected a real one: its steps would be counted as "
            "real environment steps. Give the id of the real environment. To step or evaluate a twin, pass it as the "
            "twin (on the command line: --twin)."
        )


def _name_of(env_id: str) -> str:
    """The id without the module in front of it."""
    return env_id.rpartition(":")[2]


def _registered_versions(name: str) -> list[EnvSpec]:
    """The spec with this id, or else those of the same id in other versions."""
    if name in gym.registry:
        return [gym.registry[name]]
    stem = _VERSION.sub("", name)
    return [spec for spec in gym.registry.values() if _VERSION.sub("", spec.id) == stem]


def _pip_line(env_id: str) -> str:
    entry = str(gym.spec(_name_of(env_id)).entry_point)
    for part, extra in _EXTRAS.items():
        if part in entry:
            return f'Install it: pip install "world-env[{extra}]"'
    return "Install the package that registers this environment, with its extras."


def _similar_ids(env_id: str) -> str:
    """Registered ids of real environments with a similar name, and how to name an id of another package."""
    known = {name.lower(): name for name, spec in gym.registry.items() if not is_learned(spec)}
    matches = difflib.get_close_matches(_name_of(env_id).lower(), known, n=5, cutoff=0.5)
    return f"Did you mean {', '.join(known[m] for m in matches)}? {_FORMS}" if matches else _FORMS
