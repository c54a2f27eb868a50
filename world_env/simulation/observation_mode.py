"""Observation modes of a twin: decoded observations, features of the model's state, or both."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from world_env.batch import State
from world_env.device import without_gradients
from world_env.errors import InvalidOptionError
from world_env.models.base import WorldModel
from world_env.rng import CounterRNG
from world_env.simulation.config import LATENT, OBSERVATION_MODES, check_choice
from world_env.twin.twin import Twin, device_and_dtype_of


class ObservationView:
    """Observation space and observations of a twin in one observation mode.

    "observation": the real environment's observation. "latent": the features of the model's state, which needs no
    decoding. "both": a dict of the observation's keys ("observation" if it is not a dict) and "latent".

    space: the observation space of one environment. decodes: True if the decoded observation is part of it.
    Raises InvalidOptionError for an unknown mode, or if the key "latent" is already in use.
    """

    def __init__(self, twin: Twin, mode: str = "observation") -> None:
        self.mode, self.space = mode, _space(twin, mode)
        self.decodes = mode != LATENT

    def latent(self, model: WorldModel, state: State) -> np.ndarray | None:
        """Return new (B, F) float32 features of `state`; None in the mode "observation"."""
        # numpy has no bfloat16.
        features = None if self.mode == "observation" else model.features(state).float()
        return None if features is None else features.numpy(force=True).copy()

    def combine(self, observation: Any, latent: np.ndarray | None) -> Any:
        """Return the observation in this mode.

        observation: environment arrays (B, ...). latent: from `latent`, of the same states.
        """
        if latent is None:
            return observation
        if self.mode == LATENT:
            return latent
        parts = observation if isinstance(observation, dict) else {"observation": observation}
        return {**parts, LATENT: latent}


def _space(twin: Twin, mode: str) -> spaces.Space[Any]:
    real = twin.spec.observation_space
    check_choice("observation_mode", mode, OBSERVATION_MODES)
    if mode == "observation":
        return real
    latent = spaces.Box(-np.inf, np.inf, (_feature_size(twin),), np.float32)
    if mode == LATENT:
        return latent
    parts = dict(real.spaces) if isinstance(real, spaces.Dict) else {"observation": real}
    if LATENT in parts:
        raise InvalidOptionError(
            f"observation_mode='both' adds the key {LATENT!r}, which the observation space has already: use 'latent'"
        )
    return spaces.Dict({**parts, LATENT: latent})


@without_gradients
def _feature_size(twin: Twin) -> int:
    """Return F, measured on one state: the protocol of world models does not declare it."""
    device, dtype = device_and_dtype_of(twin)
    context = twin.starts.select(torch.zeros(1, dtype=torch.int64, device="cpu")).to(device, dtype)
    rng = CounterRNG(torch.zeros(1, dtype=torch.int64, device=device))
    return int(twin.model.features(twin.model.encode(context, rng=rng)).shape[1])
