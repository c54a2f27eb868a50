"""Environments whose actions are in [-1, 1], for training."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from world_env.policies.action_units import ActionUnits


class ScaledActions(VecEnvWrapper):
    """Environments with a Box action space, with actions in [-1, 1].

    venv: environments. action_units: map to their units; None, after a training: actions are passed on.
    """

    def __init__(self, venv: VecEnv, action_units: ActionUnits) -> None:
        shape = action_units.space.shape
        super().__init__(venv, action_space=spaces.Box(-1.0, 1.0, shape, np.float32))
        self.action_units: ActionUnits | None = action_units

    def reset(self) -> Any:
        """Reset all environments."""
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        """Start a step with actions (N, ...) in [-1, 1]."""
        units = self.action_units
        self.venv.step_async(actions if units is None else units.to_task(actions))

    def step_wait(self) -> Any:
        """Finish the step."""
        return self.venv.step_wait()
