"""RGB frames of observations: drawn by the real environment if possible, otherwise a bar plot."""

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

_OBSERVATION_PRESERVING = (
    *("ActionChunk", "Autoreset", "ClipAction", "ClipReward", "NormalizeReward", "OrderEnforcing"),
    *("PassiveEnvChecker", "RecordEpisodeStatistics", "RescaleAction", "StickyAction", "TimeLimit"),
)
"""Wrappers that do not change observations. With other wrappers an observation is not a state of the environment."""
_MUJOCO = tuple(name for name in POSES if name.endswith("-v5"))


class Renderer:
    """Renderer of the observations of a twin.

    The real environment is made at the first frame that needs it, to draw a given state. It is never stepped.

    spec: the spec of the twin.
    """

    def __init__(self, spec: WorldSpec) -> None:
        self._spaces = observation_spaces(spec.observation_space)
        self._plain = not isinstance(spec.observation_space, spaces.Dict)
        self._space = spec.observation_space
        self._real_id, self._kwargs = _posable(spec)
        self._env: Any = None
        self._largest = {key: np.ones(()) for key in self._spaces}

    def frame(self, observation: Any) -> np.ndarray:
        """Draw one observation as an RGB frame, (H, W, 3) uint8.

        An image observation is returned as it is, of stacked frames the newest. Observations of a task in `POSES` are
        drawn by the real environment. Others are bar plots; a full bar is the bound of the space or, if unbounded, the
        largest magnitude so far (at least 1).
        Raises MissingExtraError if a package for drawing is not installed.
        """
        parts = {"observation": observation} if self._plain else observation
        for key, space in self._spaces.items():
            if is_image(space):
                pixels = np.asarray(parts[key])
                if channels_first(space):
                    # Three channels are colours, other numbers are stacked frames with the newest last.
                    pixels = np.moveaxis(pixels, 0, -1) if len(pixels) == 3 else pixels[-1]
                return _rgb_frame(pixels)
        if self._real_id is not None:
            frame = self._real_frame(self._real_id, np.asarray(observation))
            if frame is not None:
                return frame
        return self._plot(parts)

    def close(self) -> None:
        """Close the real environment. Can be called more than once; a later frame makes it again."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def _real_frame(self, real_id: str, observation: np.ndarray) -> np.ndarray | None:
        extra = "mujoco" if real_id in _MUJOCO else "classic"
        try:
            if self._env is None:
                _choose_headless_drivers()
                self._env = gym.make(
                    real_id, render_mode="rgb_array", disable_env_checker=True, **self._kwargs
                )
                self._env.reset(seed=0)
            if self._env.observation_space != self._space:
                # The data has a wrapper that the spec does not record: an observation is not a state.
                self.close()
                self._real_id = None
                return None
            POSES[real_id](self._env.unwrapped, observation)
            return _rgb_frame(np.asarray(self._env.unwrapped.render()))
        except (DependencyNotInstalled, ModuleNotFoundError) as error:
            raise MissingExtraError(
                f"rendering {real_id} needs its simulator, which is not installed ({error}): "
                f'pip install "world-env[{extra}]"'
            ) from error

    def _plot(self, parts: dict[str, Any]) -> np.ndarray:
        names, values, limits = [], [], []
        for key, space in self._spaces.items():
            flat = np.asarray(parts[key], np.float64).reshape(-1)
            limit = _finite_limit(space, flat.size)
            magnitudes = np.where(np.isfinite(flat), np.abs(flat), 0.0)
            self._largest[key] = np.maximum(self._largest[key], magnitudes)
            names += [key if flat.size == 1 else f"{key}[{i}]" for i in range(flat.size)]
            values.append(flat)
            limits.append(np.where(np.isfinite(limit), limit, self._largest[key]))
        return bar_plot(names, np.concatenate(values), np.concatenate(limits))


def _posable(spec: WorldSpec) -> tuple[str | None, dict[str, Any]]:
    """Return the id and keyword arguments of the real environment if `POSES` has it, otherwise (None, {}).

    Only ids in `POSES` are made, by Gymnasium's registry. The entry point in a twin's file is never called, so that a
    twin from an untrusted source runs no code.
    """
    if spec.real is None or spec.real_id not in POSES:
        return None, {}
    real = json.loads(spec.real)
    wrappers = {entry.get("name") for entry in real.get("additional_wrappers") or ()}
    if not wrappers <= set(_OBSERVATION_PRESERVING):
        return None, {}
    kwargs = {
        key: value for key, value in (real.get("kwargs") or {}).items() if key != "render_mode"
    }
    return spec.real_id, kwargs


def _choose_headless_drivers() -> None:
    """Select headless drivers for pygame and MuJoCo on a machine without a display, unless they are set already."""
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("MUJOCO_GL", "egl")


def _rgb_frame(array: np.ndarray) -> np.ndarray:
    """Convert pixels (H, W) or (H, W, C) to (H, W, 3) uint8: grey is repeated, stacked frames give the last one."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] in (3, 4):
        return np.array(array[:, :, :3], np.uint8)
    return np.repeat(array[:, :, -1:], 3, axis=2).astype(np.uint8)


def _finite_limit(space: spaces.Space[Any], size: int) -> np.ndarray:
    """Return (size,) the largest magnitudes in a space; infinite if unbounded or very large."""
    if isinstance(space, spaces.Box):
        limit = np.maximum(np.abs(space.low), np.abs(space.high)).astype(np.float64).reshape(-1)
    elif isinstance(space, spaces.MultiDiscrete):
        limit = np.asarray(space.start + space.nvec - 1, np.float64)
    elif isinstance(space, spaces.Discrete):
        limit = np.array([space.start + space.n - 1], np.float64)
    else:
        limit = np.full(size, np.inf)
    return np.where(limit < 1e6, limit, np.inf)
