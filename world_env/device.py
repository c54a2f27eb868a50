"""Device and precision of a model's tensors."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

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


_P = ParamSpec("_P")
_R = TypeVar("_R")
_AUTOCAST = ("cpu", "cuda")
"""Kinds of devices that may have a lower precision for single operations."""

_NOTHING = contextlib.nullcontext()
_lock = threading.Lock()
_running = 0
_outer_dtype = torch.float32
"""Default dtype of the program, while `_running` blocks of `torch_defaults` run."""


def _modes_left() -> contextlib.AbstractContextManager[Any]:
    """Block without the inference mode and the autocast of the caller.

    Tensors that are kept, such as a state, cannot be changed later if they were made in inference mode. A lower
    precision would change the numbers, and the compiled functions do not take it.
    """
    inference = torch.is_inference_mode_enabled()
    kinds = [*filter(torch.is_autocast_enabled, _AUTOCAST)]
    if not inference and not kinds:
        return _NOTHING
    left = contextlib.ExitStack()
    if inference:
        left.enter_context(torch.inference_mode(False))
    for kind in kinds:
        left.enter_context(torch.autocast(kind, enabled=False))
    return left


def without_gradients(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorator: run a function without gradients, inference mode and autocast, whatever the mode of the caller."""

    @functools.wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with _modes_left(), torch.no_grad():
            return function(*args, **kwargs)

    return run


@contextlib.contextmanager
def torch_defaults() -> Iterator[None]:
    """Run a block, or a decorated function, with torch's own defaults: tensors on the CPU, float32, with gradients.

    For stages that make networks and optimizers, of which torch, Stable-Baselines3 and families of other packages
    create tensors without a device. Code that runs at every step names its devices and dtypes instead.

    Blocks may nest and run in several threads: the device is a setting of the thread, and the last block restores the
    dtype. Until then, other threads see float32 too: the dtype is a setting of the process.
    """
    global _running, _outer_dtype
    with _lock:
        if _running == 0:
            _outer_dtype = torch.get_default_dtype()
        _running += 1
        if torch.get_default_dtype() != torch.float32:
            torch.set_default_dtype(torch.float32)
    try:
        # A device context would slow down every operation.
        cpu = torch.get_default_device().type == "cpu"
        with _NOTHING if cpu else torch.device("cpu"), _modes_left(), torch.enable_grad():
            yield
    finally:
        with _lock:
            _running -= 1
            if _running == 0 and torch.get_default_dtype() != _outer_dtype:
                torch.set_default_dtype(_outer_dtype)
