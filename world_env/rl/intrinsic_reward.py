"""Policies that go where a twin is least certain, so that what they meet in reality teaches it most."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from world_env.errors import InvalidOptionError
from world_env.twin.twin import Twin


class UncertaintyReward(VecEnvWrapper):
    """Learned worlds whose reward is how uncertain they are (Plan2Explore, Sekar et al. 2020).

    A step's reward is its uncertainty over the twin's threshold, at most 1: past the data all places are equally new,
    so what pays is to get there soon and to live on there, not to find the one place where the members are furthest
    apart.
    venv: worlds of `twin` that put "uncertainty" into every info.
    Raises InvalidOptionError for a twin without a threshold.
    """

    def __init__(self, venv: VecEnv, twin: Twin) -> None:
        if not twin.uncertainty_threshold:
            raise InvalidOptionError(
                'reward="uncertainty" needs a twin that knows its uncertainty, and this one has no threshold: fit a '
                'family that has one, such as "ensemble"'
            )
        super().__init__(venv)
        self._threshold = float(twin.uncertainty_threshold)

    def reset(self) -> Any:
        """Begin new episodes."""
        return self.venv.reset()

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """As the wrapped worlds, with the other reward (N,), in 0..1."""
        observation, _, dones, infos = self.venv.step_wait()
        uncertainty = np.array([info["uncertainty"] for info in infos], np.float32)
        return observation, np.minimum(uncertainty / self._threshold, 1.0), dones, infos
