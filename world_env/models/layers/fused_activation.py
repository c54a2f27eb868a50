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


def activated(product: Tensor, bias: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """LayerNorm and SiLU of products plus bias, with gradients: (E, N, width); the others (E, 1, width).

    The products may be overwritten.
    """
    plain = product.dtype == torch.float32 and product.device.type == "cpu"
    if plain and not torch.compiler.is_exporting() and compiled_gradients() is not None:
        hidden: Tensor = _Activated.apply(product, bias, gain, shift)
        return hidden
    hidden = torch.nn.functional.layer_norm(product + bias, product.shape[-1:])
    # addcmul would be slower: its backward pass multiplies all values by the constant 1.
    return torch.nn.functional.silu((hidden * gain).add_(shift))


class _Activated(torch.autograd.Function):
    """`activated` by compiled loops."""

    @staticmethod
    def forward(ctx: Any, product: Tensor, bias: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        hidden, factor = torch.empty_like(product), product.new_empty(product.shape[:2])
        arrays = (product, bias, gain, shift, factor, hidden)
        compiled_gradients().activate(*(each.detach().numpy() for each in arrays))
        ctx.save_for_backward(product, factor, gain, shift)
        return hidden

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        normed, factor, gain, shift = ctx.saved_tensors
        of_product = torch.empty_like(normed)
        others = [torch.zeros_like(gain) for _ in range(3)]
        arrays = (slope.contiguous(), normed, factor, gain, shift, of_product, *others)
        compiled_gradients().activate_gradients(*(each.detach().numpy() for each in arrays))
        return (of_product, *others)


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
