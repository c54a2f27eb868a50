"""What an agent sees of a model's states: what they look like, what the model makes of them, or both."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from world_env.batch import State
from world_env.errors import InvalidOptionError
from world_env.models.base import WorldModel
from world_env.rng import CounterRNG
from world_env.simulation.config import LATENT, check_mode
from world_env.twin.twin import Twin, home_of


class View:
    """One of the `OBSERVATION_MODES` of a twin.

    "pixels": the observation, in the real environment's form; "latent": the features of the state alone, so that
    nothing is decoded; "both": a dict of all keys of the observation (of a plain one "observation") and "latent".
    space: what an agent observes. decodes: whether observations are part of it.
    """

    def __init__(self, twin: Twin, mode: str = "pixels") -> None:
        self.mode, self.space = mode, _space(twin, mode)
        self.decodes = mode != LATENT

    def latent(self, model: WorldModel, state: State) -> np.ndarray | None:
        """(B, F) float32 features, fresh; None where agents see none."""
        # numpy has no bfloat16.
        features = None if self.mode == "pixels" else model.features(state).float()
        return None if features is None else features.numpy(force=True).copy()

    def shown(self, observation: Any, latent: np.ndarray | None) -> Any:
        """What agents get to see. observation: environment arrays; latent: from `latent`, of the same states."""
        if latent is None:
            return observation
        if self.mode == LATENT:
            return latent
        parts = observation if isinstance(observation, dict) else {"observation": observation}
        return {**parts, LATENT: latent}


def _space(twin: Twin, mode: str) -> spaces.Space[Any]:
    whole = twin.spec.observation_space
    check_mode(mode)
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
    rng = CounterRNG(torch.zeros(1, dtype=torch.int64, device=device))
    return int(twin.model.features(twin.model.encode(context, rng=rng)).shape[1])
