"""Curves of numbers over the course of a stage, written for TensorBoard."""

from __future__ import annotations

import math
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any

from world_env.errors import MissingExtraError
from world_env.types import JSON


class MetricsWriter:
    """Writer of the numbers of one stage as TensorBoard curves with the tags `STAGE/NAME`.

    folder: folder of TensorBoard event files. Stages may share one. None: nothing is written.
    stage: first part of the tags. The x axis is gradient steps in "fit", environment steps in "learn", and rounds in
        "refine".

    Raises MissingExtraError where TensorBoard is not installed.
    """

    def __init__(self, folder: Path | None, stage: str) -> None:
        self._stage = stage
        self._writer: Any = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                'TensorBoard is not installed: pip install "world-env[train]"'
            ) from error
        self._writer = SummaryWriter(str(folder))

    def write(self, step: int, numbers: JSON) -> None:
        """Add one point to the curve of each finite number; other values are left out."""
        if self._writer is None:
            return
        for name, value in numbers.items():
            if isinstance(value, Real) and math.isfinite(value):
                self._writer.add_scalar(f"{self._stage}/{name}", value, step)

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()
