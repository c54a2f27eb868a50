"""How to set a simulator to the state that an observation shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Pose = Callable[[Any, np.ndarray], None]
"""pose(real_env.unwrapped, observation): puts the real environment into the observation's state."""


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
