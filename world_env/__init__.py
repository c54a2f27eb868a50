"""Learned simulators that wear the Gymnasium interface: `import world_env; gym.make("WorldModel-v0")`."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from gymnasium.envs.registration import register, registry

from world_env.spec import DEFAULT_TWIN

__version__ = "0.1.0"

_LAZY = {
    "Twin": "world_env.twin.twin",
    "list_twins": "world_env.twin.serialization",
    "WorldSpec": "world_env.spec",
    "Simulator": "world_env.simulation.simulator",
    "SimulatorConfig": "world_env.simulation.simulator",
    "WorldModelEnv": "world_env.envs.env",
    "WorldModelVectorEnv": "world_env.envs.vector_env",
    "WorldModelVecEnv": "world_env.envs.sb3_vec_env",
    "register_family": "world_env.models.registry",
    "rollout": "world_env.simulation.differentiable_rollout",
    "check_world_model": "world_env.testing.model_checks",
    "check_vector_env": "world_env.testing.model_checks",
}
"""Public name -> module, imported on first use: registering ids must not load torch."""

__all__ = [*_LAZY, "errors"]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("world_env.errors")
    if name not in _LAZY:
        raise AttributeError(
            f"module 'world_env' has no attribute {name!r}: public are {', '.join(__all__)}"
        )
    return getattr(importlib.import_module(_LAZY[name]), name)


def _register(env_id: str, twin: str) -> None:
    if env_id not in registry:
        register(
            id=env_id,
            entry_point="world_env.envs.env:WorldModelEnv",
            vector_entry_point="world_env.envs.vector_env:WorldModelVectorEnv",
            kwargs={"twin": twin},
        )


def _register_bundled() -> None:
    """One id for each bundled twin, for clients that can pass nothing but an id."""
    _register("WorldModel-v0", DEFAULT_TWIN)
    for path in sorted((Path(__file__).parent / "bundled_twins").glob("*/twin.json")):
        real = json.loads(path.read_text(encoding="utf-8"))["spec"]["real"]
        if real is not None:
            _register(_id_of(json.loads(real)["id"], path.parent.name), path.parent.name)


def _id_of(real_id: str, twin: str) -> str:
    """The id of a bundled twin: the real one's name, and what the twin's name adds to that."""
    name = real_id.rpartition("/")[2].rpartition("-v")[0]
    added = twin.replace("-", "").removeprefix(name.lower())
    return f"WorldModel/{name}-{added}-v0" if added else f"WorldModel/{name}-v0"


_register_bundled()
