"""What an agent sees of a model's states: what they look like, what the model makes of them, or both."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from world_env.batch import State
from world_env.errors import InvalidOptionError
from world_env.models.base import WorldModel
from world_env.random import RowRandom
from world_env.twin import Twin, home_of

OBSERVATION_MODES = ("pixels", "latent", "both")
LATENT = "latent"
"""Key of the model's features beside observations, (B, F) float32."""


class View:
    """One of the `OBSERVATION_MODES` of a twin.

    "pixels": the observation, in the real environment's form; "latent": the features of the state alone, so that
    nothing is decoded; "both": a dict of all keys of the observation (of a plain one "observation") and "latent".
    space: what an agent observes.
    """

    def __init__(self, twin: Twin, mode: str = "pixels") -> None:
        self.mode, self._codec = mode, twin.codec
        self.space = _space(twin, mode)
        self.decodes = mode != LATENT

    def look(self, model: WorldModel, state: State, *, decode: bool) -> dict[str, np.ndarray]:
        """Key -> (B, ...) of what there is to see, encoded. decode: whether the observation is asked for."""
        seen: dict[str, np.ndarray] = {}
        if decode:
            seen |= {key: part.numpy(force=True) for key, part in model.decode(state).items()}
        if self.mode != "pixels":
            # numpy has no bfloat16.
            seen[LATENT] = model.features(state).float().numpy(force=True)
        return seen

    def observation(self, seen: dict[str, np.ndarray]) -> Any:
        """The observation in the real environment's form, fresh arrays; None where it was not decoded."""
        parts = {key: value for key, value in seen.items() if key != LATENT or not self._latent}
        return self._codec.decode_arrays(parts) if parts else None

    def shown(self, seen: dict[str, np.ndarray], observation: Any) -> Any:
        """What the agent gets to see, fresh arrays. observation: from `observation`, of the same states."""
        if not self._latent:
            return observation
        latent = seen[LATENT].copy()
        if self.mode == LATENT:
            return latent
        parts = observation if isinstance(observation, dict) else {"observation": observation}
        return {**parts, LATENT: latent}

    @property
    def _latent(self) -> bool:
        return self.mode != "pixels"


def _space(twin: Twin, mode: str) -> spaces.Space[Any]:
    whole = twin.spec.observation_space
    if mode not in OBSERVATION_MODES:
        raise InvalidOptionError(
            f"observation_mode is {mode!r}, expected one of {', '.join(map(repr, OBSERVATION_MODES))}"
        )
    if mode == "pixels":
        return whole
    latent = spaces.Box(-np.inf, np.inf, (_feature_size(twin),), np.float32)
    if mode == LATENT:
        return latent
    parts = dict(whole.spaces) if isinstance(whole, spaces.Dict) else {"observation": whole}
    if LATENT in parts:
        raise InvalidOptionError(
            f"observation_mode='both' adds the key {LATENT!r}, which the world's observation has already: take 'latent'"
        )
    return spaces.Dict({**parts, LATENT: latent})


@torch.no_grad()
def _feature_size(twin: Twin) -> int:
    """F: known only when a state is looked at."""
    device, dtype = home_of(twin)
    context = twin.starts.select(torch.zeros(1, dtype=torch.int64)).to(device, dtype)
    random = RowRandom(torch.zeros(1, dtype=torch.int64, device=device))
    return int(twin.model.features(twin.model.encode(context, random=random)).shape[1])
