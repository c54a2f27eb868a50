"""Policies written by hand from what is known of a task: (B, D) observations in, (B, ...) actions out."""

from __future__ import annotations

import numpy as np


def balance(observation: np.ndarray) -> np.ndarray:
    """CartPole: push to where the pole will fall, and a little against the cart's drift."""
    position, speed, angle, rate = observation.T
    return (3.0 * angle + rate + 0.1 * position + 0.2 * speed > 0).astype(np.int64)


def swing_up(observation: np.ndarray) -> np.ndarray:
    """Pendulum: pump energy until it suffices for the top, then hold it there with a PD law."""
    cosine, sine, speed = observation.T
    lacking = 15.0 - (0.5 * speed**2 + 15.0 * cosine)  # of angular acceleration 15 sin + 3 torque
    pumping = np.where(speed >= 0, 1.0, -1.0) * lacking
    holding = -10.0 * sine - 2.0 * speed
    torque = np.where(cosine > 0.9, holding, pumping)
    return torque.clip(-2.0, 2.0)[:, None].astype(np.float32)


def pump(observation: np.ndarray) -> np.ndarray:
    """Acrobot: torque at the elbow along the second link's turning, so that both swing ever higher."""
    return np.where(observation[:, 5] >= 0, 2, 0).astype(np.int64)


def rock(observation: np.ndarray) -> np.ndarray:
    """MountainCarContinuous: full force along the velocity."""
    return np.where(observation[:, 1:2] >= 0, 1.0, -1.0).astype(np.float32)
