"""Compiled loops where there are some, and what does the same where there are none."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def activation(dtype: torch.dtype, place: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """LayerNorm and SiLU of hidden layers (N, width), given their gain and shift (width,): without gradients.

    dtype, place: of the layers, which may be overwritten; compiled loops exist for float32 on the CPU.
    """
    loops = compiled_loops() if (dtype, place) == (torch.float32, "cpu") else None
    if loops is None:
        # What torch.nn.functional does, without its checks.
        return lambda hidden, gain, shift: torch.ops.aten.silu_(
            torch.layer_norm(hidden, gain.shape, gain, shift)
        )

    def activate(hidden: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        loops.activate_rows(hidden.numpy(), gain.numpy(), shift.numpy())
        return hidden

    return activate


@functools.cache
def compiled_loops() -> Any:
    """`world_env.models.layers.numba_kernels`; None where numba is not installed, or has nowhere to keep what it compiled."""
    try:
        from world_env.models.layers import numba_kernels as compiled
    except (ImportError, RuntimeError):
        return None
    return compiled
