"""A real environment small enough to know by heart: importing this registers Counting-v0."""

import threading
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class CountingEnv(gym.Env):
    """Counts its steps: what is observed, rewarded and done can be read off the numbers.

    Observation (step, start + step, 7): `start` is drawn at each reset, 7 is constant.
    Reward: 100 * step before it + action. Terminates after a number of steps drawn from `lengths`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(
        self,
        lengths: tuple[int, int] = (5, 12),
        nan_at: int | None = None,
        parts: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = render_mode
        self.lengths, self.nan_at, self.parts = lengths, nan_at, parts
        box = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        pixels = spaces.Box(0, 255, (2, 2, 3), np.uint8)
        named = {"box": box, "pixels": pixels, "mode": spaces.Discrete(3)}
        self.observation_space = spaces.Dict(named) if parts else box
        self.action_space = spaces.Discrete(3)
        self.total = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        self.step_number = 0
        self.start = float(self.np_random.integers(0, 1000))
        self.length = int(self.np_random.integers(*self.lengths))
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        reward = 100.0 * self.step_number + float(action)
        self.step_number += 1
        self.total += 1
        return self._observe(), reward, self.step_number >= self.length, False, {}

    def _observe(self) -> Any:
        here = np.array([self.step_number, self.start + self.step_number, 7.0], np.float32)
        if self.nan_at is not None and self.step_number >= self.nan_at:
            here[1] = np.nan
        if not self.parts:
            return here
        pixels = np.full((2, 2, 3), self.step_number, np.uint8)
        return {"box": here, "pixels": pixels, "mode": self.step_number % 3}


class Nested(gym.Env):
    """An environment whose spaces no codec covers."""

    observation_space = spaces.Tuple([spaces.Sequence(spaces.Discrete(2))])
    action_space = spaces.Discrete(2)


class Doubled(gym.RewardWrapper):
    """A user's wrapper: rewards count twice."""

    def reward(self, reward: Any) -> Any:
        return 2 * reward


class Watched(gym.Wrapper):
    """Counts the steps of all copies of an environment."""

    taken = 0

    def step(self, action: Any) -> Any:
        Watched.taken += 1
        return self.env.step(action)


class Remembering(gym.ObservationWrapper):
    """Shows what it showed before as well: its own state is part of where the environment stands."""

    shown = 0.0

    def observation(self, observation: Any) -> Any:
        self.shown = 0.5 * self.shown + observation
        return self.shown


class Sealed(gym.Wrapper):
    """Cannot be copied, as a socket to a robot cannot."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.line = threading.Lock()


class Forgetful(gym.ObservationWrapper):
    """Keeps what it shows where no copy of it looks."""

    shown = 0

    def observation(self, observation: Any) -> Any:
        Forgetful.shown += 1
        return observation + np.float32(1e-6 * Forgetful.shown)


def needs_a_simulator(**_: Any) -> gym.Env:
    raise gym.error.DependencyNotInstalled("no simulator here")


gym.register("Counting-v0", entry_point="counting:CountingEnv", max_episode_steps=10)
gym.register("CountingNested-v0", entry_point=Nested)
gym.register("CountingMissing-v0", entry_point=needs_a_simulator)
