"""True termination functions of tasks, computed from observations: (before, action, after) -> (B,) bool.

For comparisons only: a twin that is given one of these shows what its own learned termination costs.
Sources: `is_healthy` of gymnasium.envs.mujoco.hopper_v5 and walker2d_v5, and `step` of inverted_double_pendulum_v5, at
their default arguments.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def hopper_falls(before: Any, action: Any, after: np.ndarray) -> np.ndarray:
    """Hopper-v5: torso lower than .7, leaning by more than .2 rad, or any other number beyond 100. after: (B, 11)."""
    height, angle = after[:, 0], after[:, 1]
    return ~((height > 0.7) & (np.abs(angle) < 0.2) & (np.abs(after[:, 1:]) < 100.0).all(1))


def walker_falls(before: Any, action: Any, after: np.ndarray) -> np.ndarray:
    """Walker2d-v5: torso outside of heights .8 to 2, or leaning by more than 1 rad. after: (B, 17)."""
    height, angle = after[:, 0], after[:, 1]
    return ~((height > 0.8) & (height < 2.0) & (np.abs(angle) < 1.0))


def double_pendulum_falls(before: Any, action: Any, after: np.ndarray) -> np.ndarray:
    """InvertedDoublePendulum-v5: tip of the second pole at a height of at most 1. after: (B, 9)."""
    (sine, second_sine), (cosine, second_cosine) = after[:, 1:3].T, after[:, 3:5].T
    # The second angle is relative to the first one; both poles have a length of .6.
    tip = 0.6 * cosine + 0.6 * (cosine * second_cosine - sine * second_sine)
    return np.asarray(tip <= 1.0)


def never_ends(before: Any, action: Any, after: np.ndarray) -> np.ndarray:
    """HalfCheetah-v5: no state ends an episode."""
    return np.zeros(len(after), bool)
