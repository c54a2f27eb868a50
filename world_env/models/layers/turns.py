"""Changes of angles as turns, for models that are linear in the observation."""

from __future__ import annotations

import torch
from torch import Tensor

from world_env.models.layers.vector_layout import VectorLayout
from world_env.spec import WorldSpec


class Turns:
    """Turns of the angles of a spec, in place of the changes of their cosine and sine in a flat vector (..., D).

    A turn is a linear function of a speed, and the changes of cosine and sine are not. False without angles.
    """

    def __init__(self, spec: WorldSpec, layout: VectorLayout) -> None:
        self._cosines: list[int] = []
        self._sines: list[int] = []
        first = 0
        for key, size in zip(layout.shapes, layout.sizes, strict=True):
            angles, first = spec.angles.get(key, ()), first + size
            self._cosines += [first - size + angle.column for angle in angles]
            self._sines += range(first - len(angles), first)

    def __bool__(self) -> bool:
        return bool(self._cosines)

    def changes(self, vector: Tensor, arrived: Tensor, change: Tensor, scale: Tensor) -> Tensor:
        """Return changes (..., D) with the turn of each angle, in units of `scale` (D,), in the column of its cosine.

        The column of its sine is 0.
        """
        cosine, sine = vector[..., self._cosines], vector[..., self._sines]
        new_cosine, new_sine = arrived[..., self._cosines], arrived[..., self._sines]
        turn = torch.atan2(
            cosine * new_sine - sine * new_cosine, cosine * new_cosine + sine * new_sine
        )
        change = change.clone()
        change[..., self._cosines] = turn / scale[self._cosines]
        change[..., self._sines] = 0.0
        return change

    def apply(self, vector: Tensor, change: Tensor, arrived: Tensor, scale: Tensor) -> Tensor:
        """Return `arrived` (..., D) with the angles of `vector`, turned by the inverse of `changes`."""
        turn = change[..., self._cosines] * scale[self._cosines]
        cosine, sine = vector[..., self._cosines], vector[..., self._sines]
        arrived = arrived.clone()
        arrived[..., self._cosines] = cosine * turn.cos() - sine * turn.sin()
        arrived[..., self._sines] = sine * turn.cos() + cosine * turn.sin()
        return arrived
