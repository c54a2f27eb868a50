"""Results of a simulation step: predictions as arrays, and checks of their values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from world_env.errors import CheckError, KnownFunctionError
from world_env.models.base import Prediction


def array(values: Tensor) -> np.ndarray:
    """Convert (B,) values to a float32 array, which may share the tensor's memory."""
    # numpy has no bfloat16.
    return (values if values.dtype is torch.float32 else values.float()).numpy(force=True)


def prediction_arrays(prediction: Prediction) -> dict[str, np.ndarray]:
    """Return reward, termination probability and terminal reward by name; they may share the prediction's memory."""
    arrays = {"reward": array(prediction.reward), "terminated": array(prediction.terminated)}
    if prediction.terminal_reward is not None:
        arrays["terminal_reward"] = array(prediction.terminal_reward)
    return arrays


FRAME = "frame"
"""Name of the extra that `render()` returns."""
_INFO_KEYS = {"end", "uncertainty", "episode", "final_obs", "final_info", "terminal_observation"}


def check_extra_names(extras: dict[str, Tensor]) -> None:
    """Raise CheckError for the name of an extra that `info` uses otherwise."""
    for name in extras:
        if name in _INFO_KEYS or name.startswith("_"):
            raise CheckError(
                f"Prediction.extras has the name {name!r}, which `info` uses otherwise: choose another"
            )


def extra_arrays(extras: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Return new arrays of the extras of a prediction, the frame as (B, H, W, 3) uint8.

    Raises CheckError for a name that `info` uses otherwise.
    """
    check_extra_names(extras)
    arrays = {name: value.numpy(force=True).copy() for name, value in extras.items()}
    if FRAME in arrays:
        pixels = np.moveaxis(arrays[FRAME], 1, -1).clip(0.0, 1.0) * 255.0
        arrays[FRAME] = np.broadcast_to(pixels.round(), (*pixels.shape[:-1], 3)).astype(np.uint8)
    return arrays


def finite_rows(decoded: list[np.ndarray], arrays: dict[str, np.ndarray]) -> np.ndarray | None:
    """Return (B,) bool, True for environments whose predictions are all finite; None if all environments' are."""
    parts = [*decoded, *arrays.values()]
    # A finite sum of squares has finite terms. It may also overflow, so a non-finite sum is only a reason to look.
    if math.isfinite(sum([float(np.vdot(part, part)) for part in parts])):
        return None
    return np.all([np.isfinite(part.reshape(len(part), -1)).all(1) for part in parts], axis=0)


def check_known(values: np.ndarray, rows: int, name: str) -> np.ndarray:
    """Return the result of a known function. Raises KnownFunctionError unless it is `rows` finite numbers."""
    if values.shape != (rows,) or not np.isfinite(values.astype(float)).all():
        raise KnownFunctionError(
            f"{name} returned an array of shape {values.shape}, expected ({rows},) finite numbers, one per environment"
        )
    return values


@dataclass(frozen=True)
class StepResult:
    """Result of one step of B environments. All arrays are new."""

    observation: Any
    """Environment arrays (B, ...), or a dict of them, in the simulator's observation mode."""
    reward: np.ndarray
    """(B,) float32, in task units."""
    terminated: np.ndarray
    """(B,) bool."""
    truncated: np.ndarray
    """(B,) bool."""
    end: np.ndarray
    """(B,) int8, number of an `EpisodeEnd`: the reason why the episode ended; 0 while it is running."""
    uncertainty: np.ndarray | None
    """(B,) float32, >= 0; None if it is not computed."""
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    """Other results of the model family, name -> (B, ...); "frame" as (B, H, W, 3) uint8."""

    def scalars(self) -> dict[str, np.ndarray]:
        """Return the extras with one number per environment, name -> (B,)."""
        return {name: value for name, value in self.extras.items() if value.ndim == 1}
