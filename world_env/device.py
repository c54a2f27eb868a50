"""Checks of the device and the precision of a model's tensors."""

from __future__ import annotations

from typing import Any

import torch

from world_env.errors import InvalidOptionError


def as_device(device: Any) -> torch.device:
    """Convert to a torch device that is available. Raises InvalidOptionError if it is not."""
    try:
        # An empty allocation is the one availability test that works with every backend.
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InvalidOptionError(
            f"device is {device!r}, which is not available ({reason:.200}): pass 'cpu', or a device that torch "
            "lists as available"
        ) from error


def as_dtype(dtype: torch.dtype) -> torch.dtype:
    """Check the precision of a twin: float32 or float64. Raises InvalidOptionError otherwise."""
    if dtype in (torch.float32, torch.float64):
        return dtype
    raise InvalidOptionError(
        f"dtype is {dtype}, expected torch.float32 or torch.float64: a lower precision makes random draws and "
        "pixels inexact"
    )
