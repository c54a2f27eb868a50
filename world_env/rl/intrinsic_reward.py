"""Uncertainty of a twin as reward: it trains policies that collect informative real data."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from world_env.errors import InvalidOptionError
from world_env.twin.twin import Twin


class UncertaintyReward(VecEnvWrapper):
    """Replace the reward of learned environments by their uncertainty (Plan2Explore, Sekar et al. 2020).

    The reward of a step is its uncertainty divided by the twin's threshold, clipped to 1. The clip makes all states
    outside the data equally valuable, so the return grows with the steps spent outside the data.
    venv: environments of `twin` with "uncertainty" in every info.
    Raises InvalidOptionError for a twin without an uncertainty threshold.
    """

    def __init__(self, venv: VecEnv, twin: Twin) -> None:
        if not twin.uncertainty_threshold:
            raise InvalidOptionError(
                "reward='uncertainty' needs a twin with an uncertainty threshold, but this twin has no threshold: fit "
                "a family that estimates its uncertainty, such as 'ensemble'"
            )
        super().__init__(venv)
        self._threshold = float(twin.uncertainty_threshold)

    def reset(self) -> Any:
        """Reset all environments."""
        return self.venv.reset()

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Finish the step; the reward (N,) is in [0, 1]."""
        observation, _, dones, infos = self.venv.step_wait()
        uncertainty = np.array([info["uncertainty"] for info in infos], np.float32)
        return observation, np.minimum(uncertainty / self._threshold, 1.0), dones, infos
