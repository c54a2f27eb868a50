"""Environments for the tests of worker processes, importable by name."""

import os
import signal
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class MotorError(Exception):
    """An error that cannot be read back from a pickle: its constructor takes more than its message."""

    def __init__(self, message: str, *, code: int = 7) -> None:
        super().__init__(message, code)


class DyingEnv(gym.Env):
    """Random walk of 30 steps. deaths: folder with one file per death that is left, named "<seed>-<number>"."""

    observation_space = spaces.Box(-100, 100, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, deaths: str = "", at: int = 12, fails: str = "") -> None:
        self.deaths, self.at, self.fails = deaths, at, fails

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.seed, self.steps, self.place = seed, 0, float(self.np_random.normal())
        return np.array([self.place], np.float32), {}

    def step(self, action: int) -> Any:
        self.steps += 1
        self.place += float(self.np_random.normal()) + (1 if action else -1)
        left = sorted(Path(self.deaths).glob(f"{self.seed}-*")) if self.deaths else []
        if left and self.steps == self.at:
            if self.fails:
                raise {"plain": RuntimeError, "own": MotorError}[self.fails]("the motor is on fire")
            left[0].unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return np.array([self.place], np.float32), self.place, False, self.steps == 30, {}


gym.register("Dying-v0", entry_point="dying_env:DyingEnv", max_episode_steps=50)
