"""What an observation looks like: the real environment's picture of it, else a plot of its numbers.

The only module of the package that names tasks: a pose is knowledge about one task, and nothing
else needs any.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled

from world_env.codec import channels_first, is_image, observation_spaces
from world_env.errors import MissingExtraError
from world_env.spec import WorldSpec

Pose = Callable[[Any, np.ndarray], None]
"""pose(real_env.unwrapped, observation): puts the real environment into the observation's state."""

_TRANSPARENT = (
    *("ActionChunk", "Autoreset", "ClipAction", "ClipReward", "NormalizeReward", "OrderEnforcing"),
    *("PassiveEnvChecker", "RecordEpisodeStatistics", "RescaleAction", "StickyAction", "TimeLimit"),
)
"""Wrappers that leave observations as they are; behind others the numbers may mean other things."""

_LABELLED = 24
"""Most numbers that a plot shows one a line, with names; beyond, thin columns without."""
_SHOWN = 512
_WIDTH, _HEIGHT = 480, 360
_INK, _FAINT, _BAR, _NEGATIVE = (40, 40, 48), (225, 226, 232), (46, 110, 190), (214, 106, 60)


def _state(env: Any, observation: np.ndarray) -> None:
    env.state = np.array(observation, np.float64)


def _angle(env: Any, observation: np.ndarray) -> None:
    cosine, sine, velocity = observation.astype(np.float64)
    env.state = np.array([np.arctan2(sine, cosine), velocity])
    # The torque arrow: an observation does not say which action led to it.
    env.last_u = None


def _two_angles(env: Any, observation: np.ndarray) -> None:
    cos1, sin1, cos2, sin2, *velocities = observation.astype(np.float64)
    env.state = np.array([np.arctan2(sin1, cos1), np.arctan2(sin2, cos2), *velocities])


def _body(env: Any, observation: np.ndarray) -> None:
    """Positions, velocities, then what no picture needs; an unobserved root stands at 0."""
    parts = env.observation_structure
    hidden = np.zeros(parts.get("skipped_qpos", 0))
    positions, rest = observation[: parts["qpos"]], observation[parts["qpos"] :]
    env.set_state(np.concatenate([hidden, positions]), np.array(rest[: parts["qvel"]]))


def _cart_and_two_poles(env: Any, observation: np.ndarray) -> None:
    angles = np.arctan2(observation[1:3], observation[3:5])
    env.set_state(np.concatenate([observation[:1], angles]), np.array(observation[5:8]))


def _reaching_arm(env: Any, observation: np.ndarray) -> None:
    angles = np.arctan2(observation[2:4], observation[0:2])
    velocities = np.concatenate([observation[6:8], np.zeros(2)])
    env.set_state(np.concatenate([angles, observation[4:6]]), velocities)


def _pushing_arm(env: Any, observation: np.ndarray) -> None:
    # Both things slide along y, then x, from where the model file puts them.
    slides = [
        (place - env.model.body(name).pos)[[1, 0]]
        for name, place in (("object", observation[17:20]), ("goal", observation[20:23]))
    ]
    velocities = np.concatenate([observation[7:14], np.zeros(4)])
    env.set_state(np.concatenate([observation[:7], *slides]), velocities)


POSES: dict[str, Pose] = {
    "CartPole-v1": _state,
    "Pendulum-v1": _angle,
    "Acrobot-v1": _two_angles,
    "MountainCar-v0": _state,
    "MountainCarContinuous-v0": _state,
    "HalfCheetah-v5": _body,
    "Hopper-v5": _body,
    "Walker2d-v5": _body,
    "Ant-v5": _body,
    "Swimmer-v5": _body,
    "Humanoid-v5": _body,
    "HumanoidStandup-v5": _body,
    "InvertedPendulum-v5": _body,
    "InvertedDoublePendulum-v5": _cart_and_two_poles,
    "Reacher-v5": _reaching_arm,
    "Pusher-v5": _pushing_arm,
}
"""Real id -> how to put that environment into the state that an observation shows."""

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
        return _bars(names, np.concatenate(values), np.concatenate(reaches))


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


def _bars(names: list[str], values: np.ndarray, reaches: np.ndarray) -> np.ndarray:
    """Named numbers as bars from the middle line; `reaches` (D,) is a full bar's value."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise MissingExtraError(
            'plotting an observation needs Pillow: pip install "world-env[train]"'
        ) from error
    share = np.nan_to_num(values / np.maximum(reaches, 1e-12)).clip(-1.0, 1.0)
    image = Image.new("RGB", (_WIDTH, _HEIGHT), (250, 250, 252))
    draw = ImageDraw.Draw(image)
    colours = [_BAR if part >= 0 else _NEGATIVE for part in share]
    if len(names) > _LABELLED:
        middle, count = _HEIGHT // 2, min(len(names), _SHOWN)
        step = (_WIDTH - 20) / count
        for i in range(count):
            top, bottom = sorted((middle, middle - float(share[i]) * (middle - 30)))
            draw.rectangle((10 + i * step, top, 10 + (i + 0.85) * step, bottom), colours[i])
        draw.line((10, middle, _WIDTH - 10, middle), _INK)
        draw.text((10, 6), f"{count} of {len(names)} numbers", _INK)
        return np.array(image)
    height, left, middle, right = _HEIGHT / len(names), 150, 270, 390
    draw.line((middle, 4, middle, _HEIGHT - 4), _FAINT, 2)
    for i, name in enumerate(names):
        centre = (i + 0.5) * height
        half = min(height * 0.32, 14.0)
        start, stop = sorted((middle, middle + float(share[i]) * (right - middle)))
        draw.rectangle((left, centre - half, right, centre + half), outline=_FAINT)
        draw.rectangle((start, centre - half, stop, centre + half), colours[i])
        draw.text((left - 8, centre), name[-22:], _INK, anchor="rm")
        draw.text((right + 8, centre), f"{values[i]:.4g}", _INK, anchor="lm")
    return np.array(image)
