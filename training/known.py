"""What is known of tasks whose termination can be computed from observations: (before, action, after) -> (B,) bool.

For comparisons only: a twin that is given one of these shows what its own learned termination costs.
Source: `is_healthy` of gymnasium.envs.mujoco's v5 environments at their default arguments.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def hopper_falls(before: Any, action: Any, after: np.ndarray) -> np.ndarray:
    """Hopper-v5: torso lower than .7, leaning by more than .2 rad, or any other number beyond 100. after: (B, 11)."""
    height, angle = after[:, 0], after[:, 1]
    return ~((height > 0.7) & (np.abs(angle) < 0.2) & (np.abs(after[:, 1:]) < 100.0).all(1))


def walker_falls(before: Any, action: Any, after: np.ndarray) -> np.ndarray:
    """Walker2d-v5: torso not between .8 and 2, or leaning by more than 1 rad. after: (B, 17)."""
    height, angle = after[:, 0], after[:, 1]
    return ~((height > 0.8) & (height < 2.0) & (np.abs(angle) < 1.0))


def ant_falls(before: Any, action: Any, after: np.ndarray) -> np.ndarray:
    """Ant-v5: torso not between .2 and 1, or a number that is none. after: (B, 105)."""
    height = after[:, 0]
    return ~(np.isfinite(after).all(1) & (height >= 0.2) & (height <= 1.0))


def double_pole_falls(before: Any, action: Any, after: np.ndarray) -> np.ndarray:
    """InvertedDoublePendulum-v5: the tip, .6 above each of two hinges, not higher than 1. after: (B, 9)."""
    sine_1, sine_2, cosine_1, cosine_2 = after[:, 1], after[:, 2], after[:, 3], after[:, 4]
    # The second angle is relative to the first pole.
    return 0.6 * cosine_1 + 0.6 * (cosine_1 * cosine_2 - sine_1 * sine_2) <= 1.0
