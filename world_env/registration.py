"""Registration of the Gymnasium ids: `WorldModel-v0`, and one id for each bundled twin."""

from __future__ import annotations

import json

from gymnasium.envs.registration import register, registry

from world_env.bundled_twins import DEFAULT_TWIN, FOLDER


def _register(env_id: str, twin: str) -> None:
    if env_id not in registry:
        register(
            id=env_id,
            entry_point="world_env.envs.env:WorldModelEnv",
            vector_entry_point="world_env.envs.vector_env:WorldModelVectorEnv",
            kwargs={"twin": twin},
        )


def register_all() -> None:
    """Register `WorldModel-v0` and one id for each bundled twin, for clients that pass only an id.

    Entry points are strings: registering loads no torch.
    """
    _register("WorldModel-v0", DEFAULT_TWIN)
    for path in sorted(FOLDER.glob("*/twin.json")):
        real = json.loads(path.read_text(encoding="utf-8"))["spec"]["real"]
        if real is not None:
            _register(_id_of(json.loads(real)["id"], path.parent.name), path.parent.name)


def _id_of(real_id: str, twin: str) -> str:
    """The id of a bundled twin: the real one's name, and what the twin's name adds to that."""
    name = real_id.rpartition("/")[2].rpartition("-v")[0]
    added = twin.replace("-", "").removeprefix(name.lower())
    return f"WorldModel/{name}-{added}-v0" if added else f"WorldModel/{name}-v0"
