"""Conversion of what a user passes as the real environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import gymnasium
import msgspec

from world_env.errors import StageError
from world_env.spec import EnvConfig, python_object
from world_env.struct import Struct

AnyEnv: TypeAlias = EnvConfig | str | Callable[..., gymnasium.Env] | gymnasium.Env
"""What every stage takes as the real environment: an `EnvConfig`, the id of an environment, a function (or a class)
that makes the environment, or an environment."""


def as_env_config(real: AnyEnv) -> EnvConfig:
    """Return the settings of a real environment.

    real: an `EnvConfig`, the id of an environment, a function that makes the environment, or an environment, which is
        used as it is and never closed.
    Raises InvalidOptionError for anything else.
    """
    return real if isinstance(real, EnvConfig) else EnvConfig(real)  # type: ignore[arg-type]


def take_env(settings: Struct, name: str = "real") -> None:
    """Replace the real environment in the settings of a stage by its `EnvConfig`."""
    msgspec.structs.force_setattr(settings, name, as_env_config(getattr(settings, name)))


def limited(real: EnvConfig, horizon: int | None) -> EnvConfig:
    """Return the environment with at most the time limit of a twin.

    horizon: time limit in steps of the twin, each of which is one chunk of actions; None: no limit.
    """
    if horizon is None:
        return real
    steps = horizon * real.action_chunk
    return (
        real if real.horizon is not None and real.horizon <= steps else real.replace(horizon=steps)
    )


def given_env(real: EnvConfig) -> gymnasium.Env[Any, Any] | None:
    """Return the environment that a user passed as an object; None for an id or a function.

    Raises StageError for an object of another process.
    """
    found = python_object(real.env_id)
    return found if isinstance(found, gymnasium.Env) else None


def check_can_be_copied(real: EnvConfig, wanted: str) -> None:
    """Raise StageError where several environments are needed and a user passed one.

    wanted: what needs them, with the argument that asks for them, such as "workers=4".
    """
    if given_env(real) is not None:
        raise StageError(
            f"{wanted} needs several real environments, but one environment object was passed: pass a function that "
            "makes the environment, for example real=lambda: MyEnv(), or play in one environment"
        )
