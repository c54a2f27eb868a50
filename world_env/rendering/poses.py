"""Functions that set a real environment to the state of an observation, for rendering."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Pose = Callable[[Any, np.ndarray], None]
"""pose(real_env.unwrapped, observation): set the real environment to the state of an observation, in place."""


def _pose_state(env: Any, observation: np.ndarray) -> None:
    env.state = np.array(observation, np.float64)


def _pose_pendulum(env: Any, observation: np.ndarray) -> None:
    cosine, sine, velocity = observation.astype(np.float64)
    env.state = np.array([np.arctan2(sine, cosine), velocity])
    # No torque arrow: the observation does not contain the action.
    env.last_u = None


def _pose_acrobot(env: Any, observation: np.ndarray) -> None:
    cos1, sin1, cos2, sin2, *velocities = observation.astype(np.float64)
    env.state = np.array([np.arctan2(sin1, cos1), np.arctan2(sin2, cos2), *velocities])


def _pose_body(env: Any, observation: np.ndarray) -> None:
    """Set a MuJoCo body from an observation of positions, velocities and others; unobserved positions are 0."""
    parts = env.observation_structure
    unobserved = np.zeros(parts.get("skipped_qpos", 0))
    positions, rest = observation[: parts["qpos"]], observation[parts["qpos"] :]
    env.set_state(np.concatenate([unobserved, positions]), np.array(rest[: parts["qvel"]]))


def _pose_double_pendulum(env: Any, observation: np.ndarray) -> None:
    angles = np.arctan2(observation[1:3], observation[3:5])
    env.set_state(np.concatenate([observation[:1], angles]), np.array(observation[5:8]))


def _pose_reacher(env: Any, observation: np.ndarray) -> None:
    angles = np.arctan2(observation[2:4], observation[0:2])
    velocities = np.concatenate([observation[6:8], np.zeros(2)])
    env.set_state(np.concatenate([angles, observation[4:6]]), velocities)


def _pose_pusher(env: Any, observation: np.ndarray) -> None:
    # The positions of object and goal are slides along y, then x, relative to their place in the model file.
    slides = [
        (place - env.model.body(name).pos)[[1, 0]]
        for name, place in (("object", observation[17:20]), ("goal", observation[20:23]))
    ]
    velocities = np.concatenate([observation[7:14], np.zeros(4)])
    env.set_state(np.concatenate([observation[:7], *slides]), velocities)


POSES: dict[str, Pose] = {
    "CartPole-v1": _pose_state,
    "Pendulum-v1": _pose_pendulum,
    "Acrobot-v1": _pose_acrobot,
    "MountainCar-v0": _pose_state,
    "MountainCarContinuous-v0": _pose_state,
    "HalfCheetah-v5": _pose_body,
    "Hopper-v5": _pose_body,
    "Walker2d-v5": _pose_body,
    "Ant-v5": _pose_body,
    "Swimmer-v5": _pose_body,
    "Humanoid-v5": _pose_body,
    "HumanoidStandup-v5": _pose_body,
    "InvertedPendulum-v5": _pose_body,
    "InvertedDoublePendulum-v5": _pose_double_pendulum,
    "Reacher-v5": _pose_reacher,
    "Pusher-v5": _pose_pusher,
}
"""Id of a real environment -> its pose function."""
