"""What an observation looks like: the real environment's picture of it, else a plot of its numbers.

The only module of the package that names tasks: a pose is knowledge about one task, and nothing
else needs any.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled

from world_env.errors import MissingExtraError
from world_env.rendering.plots import bar_plot
from world_env.rendering.poses import POSES
from world_env.spaces import channels_first, is_image, observation_spaces
from world_env.spec import WorldSpec

_TRANSPARENT = (
    *("ActionChunk", "Autoreset", "ClipAction", "ClipReward", "NormalizeReward", "OrderEnforcing"),
    *("PassiveEnvChecker", "RecordEpisodeStatistics", "RescaleAction", "StickyAction", "TimeLimit"),
)
"""Wrappers that leave observations as they are; behind others the numbers may mean other things."""


_MUJOCO = tuple(name for name in POSES if name.endswith("-v5"))


class Renderer:
    """Pictures of one world. Makes the real environment on the first frame and never steps it."""

    def __init__(self, spec: WorldSpec) -> None:
        self._spaces = observation_spaces(spec.observation_space)
        self._plain = not isinstance(spec.observation_space, spaces.Dict)
        self._space = spec.observation_space
        self._real_id, self._kwargs = _posable(spec)
        self._env: Any = None
        self._reach = {key: np.ones(()) for key in self._spaces}

    def frame(self, observation: Any) -> np.ndarray:
        """One unbatched observation as (H, W, 3) uint8.

        An image observation is its own picture; a task in POSES is drawn by its real environment;
        anything else is a bar plot, scaled by the bounds or the largest values so far (at least 1).
        Raises MissingExtraError.
        """
        parts = {"observation": observation} if self._plain else observation
        for key, space in self._spaces.items():
            if is_image(space):
                pixels = np.asarray(parts[key])
                if channels_first(space):
                    # Three are colours; anything else are frames, of which the newest is the last.
                    pixels = np.moveaxis(pixels, 0, -1) if len(pixels) == 3 else pixels[-1]
                return _picture(pixels)
        if self._real_id is not None:
            picture = self._posed(self._real_id, np.asarray(observation))
            if picture is not None:
                return picture
        return self._plot(parts)

    def close(self) -> None:
        """Free the real environment; twice is fine, and a later frame makes it again."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def _posed(self, real_id: str, observation: np.ndarray) -> np.ndarray | None:
        extra = "mujoco" if real_id in _MUJOCO else "classic"
        try:
            if self._env is None:
                _choose_headless_drivers()
                self._env = gym.make(
                    real_id, render_mode="rgb_array", disable_env_checker=True, **self._kwargs
                )
                self._env.reset(seed=0)
            if self._env.observation_space != self._space:
                # Behind an unrecorded wrapper: these numbers are no state of this environment.
                self.close()
                self._real_id = None
                return None
            POSES[real_id](self._env.unwrapped, observation)
            return _picture(np.asarray(self._env.unwrapped.render()))
        except (DependencyNotInstalled, ModuleNotFoundError) as error:
            raise MissingExtraError(
                f"drawing {real_id} needs its simulator, which is not installed ({error}): "
                f'pip install "world-env[{extra}]"'
            ) from error

    def _plot(self, parts: dict[str, Any]) -> np.ndarray:
        names, values, reaches = [], [], []
        for key, space in self._spaces.items():
            flat = np.asarray(parts[key], np.float64).reshape(-1)
            limit = _finite_limit(space, flat.size)
            seen = np.where(np.isfinite(flat), np.abs(flat), 0.0)
            self._reach[key] = np.maximum(self._reach[key], seen)
            names += [key if flat.size == 1 else f"{key}[{i}]" for i in range(flat.size)]
            values.append(flat)
            reaches.append(np.where(np.isfinite(limit), limit, self._reach[key]))
        return bar_plot(names, np.concatenate(values), np.concatenate(reaches))


def _posable(spec: WorldSpec) -> tuple[str | None, dict[str, Any]]:
    """The real id and keyword arguments where POSES applies, else (None, {}).

    Only ids from our own table are ever made, by Gymnasium's registry: an entry point that stands
    in a twin's file is not called, so a twin from a stranger runs none of the stranger's code.
    """
    if spec.real is None or spec.real_id not in POSES:
        return None, {}
    real = json.loads(spec.real)
    wrappers = {entry.get("name") for entry in real.get("additional_wrappers") or ()}
    if not wrappers <= set(_TRANSPARENT):
        return None, {}
    kwargs = {
        key: value for key, value in (real.get("kwargs") or {}).items() if key != "render_mode"
    }
    return spec.real_id, kwargs


def _choose_headless_drivers() -> None:
    """Without a screen, picture drivers that need none; a choice already made stands."""
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("MUJOCO_GL", "egl")


def _picture(array: np.ndarray) -> np.ndarray:
    """Pixels (H, W) or (H, W, C) as (H, W, 3): grey is repeated, of a stack the last is shown."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] in (3, 4):
        return np.array(array[:, :, :3], np.uint8)
    return np.repeat(array[:, :, -1:], 3, axis=2).astype(np.uint8)


def _finite_limit(space: spaces.Space[Any], size: int) -> np.ndarray:
    """(size,) the largest magnitude that the space allows; infinite where it says nothing."""
    if isinstance(space, spaces.Box):
        limit = np.maximum(np.abs(space.low), np.abs(space.high)).astype(np.float64).reshape(-1)
    elif isinstance(space, spaces.MultiDiscrete):
        limit = np.asarray(space.start + space.nvec - 1, np.float64)
    elif isinstance(space, spaces.Discrete):
        limit = np.array([space.start + space.n - 1], np.float64)
    else:
        limit = np.full(size, np.inf)
    return np.where(limit < 1e6, limit, np.inf)
