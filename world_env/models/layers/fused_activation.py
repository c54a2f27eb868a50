"""LayerNorm and SiLU as one operation: by compiled loops if numba is available, else by torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def activation(dtype: torch.dtype, device: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Create the function (hidden, gain, shift) -> LayerNorm and SiLU of hidden (N, width), without gradients.

    gain, shift: (width,). The input may be overwritten.
    dtype, device: precision and device type of the layers. Compiled loops exist for float32 on the CPU.
    """
    # Functions of this module, so that a prepared model can be pickled.
    compiled = (dtype, device) == (torch.float32, "cpu") and compiled_loops() is not None
    return _activate_compiled if compiled else _activate


def _activate(hidden: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    # The operations of torch.nn.functional, without the cost of its checks.
    return torch.ops.aten.silu_(torch.layer_norm(hidden, gain.shape, gain, shift))  # type: ignore[no-any-return]


def _activate_compiled(hidden: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    _kernels().activate_rows(hidden.numpy(), gain.numpy(), shift.numpy())
    return hidden


@functools.cache
def compiled_loops() -> Any:
    """Import `world_env.models.layers.numba_kernels`.

    Returns None if numba is not installed, or if no folder for its compiled code can be written.
    """
    try:
        return _kernels()
    except (ImportError, RuntimeError):
        return None


@functools.cache
def compiled_gradients() -> Any:
    """Import `world_env.models.layers.numba_gradients`; None as in `compiled_loops`."""
    if compiled_loops() is None:
        return None
    from world_env.models.layers import numba_gradients

    return numba_gradients


@functools.cache
def _kernels() -> Any:
    from world_env.models.layers import numba_kernels

    return numba_kernels
