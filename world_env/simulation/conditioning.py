"""Conditioning of the environments of a simulator: given at a reset, by the configuration, or with an initial state.

What is given is stored as name -> (B, ...) float32, with NaN where an environment has the value of its initial state.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from world_env.batch import Context
from world_env.errors import InvalidOptionError
from world_env.models.base import WorldModel
from world_env.models.conditioning import check_names


def default_conditioning(model: WorldModel, default: Any, rows: int) -> dict[str, Tensor]:
    """Return the conditioning that is given to `rows` environments: one value for all, or none.

    Raises InvalidOptionError for unknown names, wrong shapes, and values that are not finite numbers.
    """
    nothing = {
        n: torch.full((1, *shape), torch.nan, dtype=torch.float32, device="cpu")
        for n, shape in model.conditioning.items()
    }
    values = nothing | _given(model, default, None, "the option conditioning")
    return {name: value.expand(rows, *value.shape[1:]) for name, value in values.items()}


def with_given(
    model: WorldModel, values: dict[str, Tensor], given: Any, index: np.ndarray
) -> dict[str, Tensor]:
    """Return `values` with those given for the environments `index`, name -> (n, ...). Raises InvalidOptionError."""
    rows = torch.from_numpy(index)
    new = _given(model, given, len(index), "options['conditioning']")
    return values | {name: values[name].index_copy(0, rows, value) for name, value in new.items()}


def conditioned(context: Context, values: dict[str, Tensor], index: np.ndarray) -> Context:
    """Return the contexts of the environments `index` with what is given instead of the values of the initial states.

    Raises InvalidOptionError for a value that neither has.
    """
    merged, rows = {}, torch.from_numpy(index)
    for name, given in values.items():
        value = given[rows]
        if name in context.conditioning:
            value = torch.where(value.isnan(), context.conditioning[name].to(value), value)
        if value.isnan().any():
            raise InvalidOptionError(
                f"the initial states have no value of the conditioning {name!r}, which this world model needs: pass "
                f"options={{'conditioning': {{{name!r}: ...}}}} to reset, or the option conditioning to the environment"
            )
        merged[name] = value
    return dataclasses.replace(context, conditioning=merged)


def _given(model: WorldModel, given: Any, rows: int | None, where: str) -> dict[str, Tensor]:
    """Return conditioning from a user, name -> (rows, *shape) float32, or (1, *shape) if `rows` is None."""
    check_names(model, given, where)
    tensors = {}
    for name, value in given.items():
        shape = model.conditioning[name]
        expected = shape if rows is None else (rows, *shape)
        try:
            array = np.asarray(value, np.float32)
        except (TypeError, ValueError):
            array = np.full((), np.nan)
        if array.shape != expected or not np.isfinite(array).all():
            raise InvalidOptionError(
                f"the conditioning {name!r} of {where} is {value!s:.80} of the shape {array.shape}, expected finite "
                f"numbers of the shape {expected}"
            )
        tensors[name] = torch.from_numpy(array.reshape(rows or 1, *shape))
    return tensors
