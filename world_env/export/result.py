"""Result of an export: the files, and how far they differ from what was exported."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from world_env.errors import InvalidOptionError
from world_env.struct import Struct

MAX_RELATIVE_ERROR = 1e-5
"""Largest accepted difference between an export and its source, relative to the largest value of the output."""

ExportFormat = Literal["onnx", "sb3"]
SUFFIXES: dict[str, str] = {"onnx": ".onnx", "sb3": ".zip"}
"""Format -> ending of the file's name."""


class ExportResult(Struct):
    """Files of an export, and the comparison of the export with its source."""

    files: tuple[Path, ...]
    """Written files."""
    checked: int
    """Number of compared samples: observations of a policy, steps of a twin."""
    max_error: float
    """Largest difference of any output, relative to the largest value of that output."""
    outside_clamp: float | None = None
    """Share of the twin's data states in which the policy clips a normalised observation, in [0, 1]. The export does
    not clip. None: the export clips too, or no twin was given."""
    notes: tuple[str, ...] = ()
    """Differences between the export and its source."""


def check_out(out: Path, format: str) -> None:
    """Raise InvalidOptionError for an unknown format, or a file name with another ending than that of the format."""
    if format not in SUFFIXES:
        raise InvalidOptionError(
            f"format is {format!r}, expected one of {', '.join(map(repr, SUFFIXES))}"
        )
    if out.suffix != SUFFIXES[format]:
        raise InvalidOptionError(
            f"out is {str(out)!r}, expected a file name that ends in {SUFFIXES[format]} for the format {format!r}"
        )
