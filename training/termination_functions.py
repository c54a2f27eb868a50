"""True termination functions of tasks, computed from observations: (before, action, after) -> (B,) bool.

For comparisons only: a twin that is given one of these shows what its own learned termination costs.
Source: `is_healthy` of gymnasium.envs.mujoco.hopper_v5 at its default arguments.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def hopper_falls(before: Any, action: Any, after: np.ndarray) -> np.ndarray:
    """Hopper-v5: torso lower than .7, leaning by more than .2 rad, or any other number beyond 100. after: (B, 11)."""
    height, angle = after[:, 0], after[:, 1]
    return ~((height > 0.7) & (np.abs(angle) < 0.2) & (np.abs(after[:, 1:]) < 100.0).all(1))
