"""What a step's prediction says, as arrays: whether it is numbers, and what known functions say instead."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from world_env.errors import KnownFunctionError
from world_env.models.base import Prediction


def array(values: Tensor) -> np.ndarray:
    """(B,) float32; may share the tensor's memory."""
    # numpy has no bfloat16.
    return (values if values.dtype is torch.float32 else values.float()).numpy(force=True)


def numbers(prediction: Prediction) -> dict[str, np.ndarray]:
    """What a prediction says of reward and end, by name; may share its memory."""
    said = {"reward": array(prediction.reward), "terminated": array(prediction.terminated)}
    if prediction.terminal_reward is not None:
        said["terminal_reward"] = array(prediction.terminal_reward)
    return said


def finite_rows(decoded: list[np.ndarray], said: dict[str, np.ndarray]) -> np.ndarray | None:
    """(B,) bool: whether all that a row predicts are numbers; None: they all are."""
    parts = [*decoded, *said.values()]
    # A sum of squares is a number only if its terms are. One of numbers may overflow: then each is looked at.
    if math.isfinite(sum([float(np.vdot(part, part)) for part in parts])):
        return None
    return np.all([np.isfinite(part.reshape(len(part), -1)).all(1) for part in parts], axis=0)


def check_known(values: np.ndarray, rows: int, name: str) -> np.ndarray:
    """What a known function returned, (B,). Raises KnownFunctionError unless it is that many numbers."""
    if values.shape != (rows,) or not np.isfinite(values.astype(float)).all():
        raise KnownFunctionError(
            f"{name} returned the shape {values.shape}, expected ({rows},) finite values"
        )
    return values


@dataclass(frozen=True)
class StepResult:
    """What one step of B rows shows; all arrays are fresh.

    observation: batched environment arrays. reward: (B,) float32. terminated, truncated: (B,) bool.
    end: (B,) int8 codes into ENDS. uncertainty: (B,) float32, or None where it is not computed.
    """

    observation: Any
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    end: np.ndarray
    uncertainty: np.ndarray | None
