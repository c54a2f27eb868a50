"""Random numbers of a model's function as inputs of its graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from world_env.errors import ExportError
from world_env.rng import CounterRNG
from world_env.types import JSON

NOISE = "noise"


@dataclass(frozen=True)
class Draw:
    """One draw of a function: "normal" (standard normal) or "uniform" in (0, 1), (B, *shape)."""

    distribution: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class RecordingRNG(CounterRNG):
    """Random streams that record their draws, with the numbers.

    All numbers of a `CounterRNG`, categories and integers included, are made of normal and uniform draws.
    """

    def __init__(self, seeds: Tensor, draws: Tensor | None = None) -> None:
        super().__init__(seeds, draws)
        self.drawn: list[tuple[Draw, Tensor]] = []

    def _next(self, shape: tuple[int, ...], distribution: str, dtype: torch.dtype) -> Tensor:
        values = super()._next(shape, distribution, dtype)
        self.drawn.append((Draw(distribution, shape, dtype), values))
        return values

    def clone(self) -> NoReturn:
        """Raise ExportError: the draws of the copy would not be recorded."""
        raise ExportError(
            "the model copies its random streams, so its random numbers cannot become inputs of a graph: draw from "
            "the `rng` that the function receives"
        )

    def select(self, rows: Tensor) -> NoReturn:
        """Raise ExportError, as `clone`."""
        self.clone()

    def merge(self, mask: Tensor, other: CounterRNG) -> NoReturn:
        """Raise ExportError, as `clone`."""
        self.clone()


class GivenRNG(RecordingRNG):
    """Random streams whose numbers are given, in the order of the draws.

    rows: any tensor (B, ...) of the B rows.
    """

    def __init__(self, numbers: Sequence[Tensor], rows: Tensor) -> None:
        super().__init__(torch.zeros_like(rows.flatten(1)[:, 0], dtype=torch.int64))
        self._numbers = iter(numbers)

    def _next(self, shape: tuple[int, ...], distribution: str, dtype: torch.dtype) -> Tensor:
        number = next(self._numbers, None)
        if number is None:
            raise ExportError(
                "the number of random numbers that the model draws differs between two calls"
            )
        return number


@dataclass(frozen=True)
class NoiseInputs:
    """The inputs of a graph that hold the random numbers of a function.

    One input "noise" (B, N) if all draws are normal: N standard normal numbers. Else one input per draw, "noise_0",
    "noise_1", ... None if the function draws nothing.
    """

    draws: tuple[Draw, ...]

    @classmethod
    def of(cls, recorder: RecordingRNG) -> NoiseInputs:
        """Return the inputs of a function that drew from a recorder."""
        return cls(tuple(draw for draw, _ in recorder.drawn))

    @property
    def joined(self) -> bool:
        """Whether all draws are in one input."""
        kinds = {(draw.distribution, draw.dtype) for draw in self.draws}
        return len(kinds) == 1 and self.draws[0].distribution == "normal"

    def inputs(self, recorder: RecordingRNG) -> dict[str, Tensor]:
        """Return the inputs that hold the numbers of a recorder."""
        numbers = [values for _, values in recorder.drawn]
        if self.joined:
            return {NOISE: torch.cat([each.flatten(1) for each in numbers], 1)}
        return {f"{NOISE}_{index}": each for index, each in enumerate(numbers)}

    def numbers(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """Inverse of `inputs`: the numbers of all draws, each (B, *shape)."""
        if not self.joined:
            return [inputs[f"{NOISE}_{index}"] for index in range(len(self.draws))]
        parts = inputs[NOISE].split([math.prod(draw.shape) for draw in self.draws], 1)
        return [part.reshape(-1, *draw.shape) for part, draw in zip(parts, self.draws, strict=True)]

    def to_json(self) -> list[JSON]:
        """Describe the inputs: name, distribution, shape of one row, dtype."""
        draws = [
            {
                "distribution": draw.distribution,
                "shape": list(draw.shape),
                "dtype": str(draw.dtype).removeprefix("torch."),
            }
            for draw in self.draws
        ]
        if self.joined:
            size = sum(math.prod(draw.shape) for draw in self.draws)
            return [{"name": NOISE, **draws[0], "shape": [size]}]
        return [{"name": f"{NOISE}_{index}", **draw} for index, draw in enumerate(draws)]
