"""Environments as users write them, with one fault each; `faulty` makes one of the faults below."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Plain(gym.Env):
    """A point on a line, correct in all parts. Its observation has two numbers."""

    observation_space: spaces.Space[Any] = spaces.Box(-9, 9, (2,), np.float32)
    action_space: spaces.Space[Any] = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count, self.x = 0, float(self.np_random.uniform(-0.5, 0.5))
        return self.seen(), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        self.x = 0.9 * self.x + 0.1 * float(np.asarray(action).reshape(-1)[0])
        return self.seen(), -abs(self.x), False, False, {}

    def seen(self) -> Any:
        return np.array([self.x, self.count / 100], np.float32)


class Shows(Plain):
    """Shows what a function makes of (x, number of steps). space: the declared space."""

    def __init__(self, shown: Callable[[float, int], Any], space: spaces.Space[Any]) -> None:
        self.shown, self.observation_space = shown, space

    def seen(self) -> Any:
        return self.shown(self.x, self.count)


class OnePort(Plain):
    """A simulator of which only one can be open at a time."""

    open_now = made = 0

    def __init__(self) -> None:
        if OnePort.open_now:
            raise RuntimeError("port 5005 is already in use")
        OnePort.open_now += 1
        OnePort.made += 1

    def close(self) -> None:
        OnePort.open_now = 0


class Looked(Plain):
    """Looks actions up in a dict, as the tabular environments do."""

    action_space = spaces.Discrete(3)
    moves = {0: -1.0, 1: 0.0, 2: 1.0}

    def step(self, action: Any) -> Any:
        assert type(action) is int, type(action)
        return super().step(self.moves[action])


def faulty(methods: dict[str, Any]) -> Callable[[], gym.Env]:
    """A function that makes `Plain` with other methods or attributes."""
    return type("Faulty", (Plain,), methods)


class Breaks(Plain):
    """Raises an error of its own at the 7th step of an episode."""

    def step(self, action: Any) -> Any:
        if self.count == 6:
            raise RuntimeError("connection lost")
        return super().step(action)


def plain_for_a_while() -> gym.Env:
    return Plain()


gym.register("Breaks-v0", entry_point=Breaks)
gym.register("Plain-v0", entry_point=Plain, max_episode_steps=50)
gym.register("OnePort-v0", entry_point=OnePort, max_episode_steps=20)
gym.register("Looked-v0", entry_point=Looked, max_episode_steps=20)
gym.register("Endless-v0", entry_point=Plain)
