"""Conditioning of world models: values that hold for a whole episode, checked against those that a family declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from world_env.errors import InvalidOptionError, WorldEnvError
from world_env.models.base import WorldModel


def check_shapes(
    model: WorldModel,
    conditioning: Mapping[str, Tensor],
    where: str,
    error: type[WorldEnvError] = InvalidOptionError,
) -> None:
    """Check the conditioning of a batch, name -> (B, ...). Raises `error`, which names `where`."""
    check_names(model, conditioning, where, error)
    for name, shape in model.conditioning.items():
        if name not in conditioning:
            raise error(
                f"{where} has no value of the conditioning {name!r}, which this world model needs, of the shape {shape}"
            )
        if conditioning[name].shape[1:] != shape:
            raise error(
                f"the conditioning {name!r} of {where} has the shape {tuple(conditioning[name].shape[1:])} per "
                f"environment, expected {shape}"
            )


def check_names(
    model: WorldModel,
    conditioning: Any,
    where: str,
    error: type[WorldEnvError] = InvalidOptionError,
) -> None:
    """Raise `error` unless the conditioning is a mapping whose names the model declares."""
    if not isinstance(conditioning, Mapping):
        raise error(
            f"{where} is {type(conditioning).__name__}, expected a dict of conditioning: name -> value"
        )
    unknown = sorted(map(str, set(conditioning) - set(model.conditioning)))
    if unknown:
        raise error(
            f"{where} has the unknown conditioning {', '.join(unknown)}, but the conditioning of this world model is: "
            f"{', '.join(model.conditioning) or 'none'}"
        )
