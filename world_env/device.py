"""Where tensors lie, and how exact they are."""

from __future__ import annotations

from typing import Any

import torch

from world_env.errors import InvalidOptionError


def as_device(device: Any) -> torch.device:
    """A device that this machine has. Raises InvalidOptionError."""
    try:
        # Asking for memory is the one question that every backend answers.
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InvalidOptionError(
            f"device is {device!r}, which cannot be used here ({reason:.200}): pass 'cpu', or a device that "
            "torch lists as available"
        ) from error


def as_dtype(dtype: torch.dtype) -> torch.dtype:
    """A precision that a twin can live in. Raises InvalidOptionError."""
    if dtype in (torch.float32, torch.float64):
        return dtype
    raise InvalidOptionError(
        f"dtype is {dtype}, expected torch.float32 or torch.float64: lower precision makes random draws and pixels inexact."
    )
