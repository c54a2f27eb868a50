"""How a twin is lived in, and how episodes end: the rules, without the stepping."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from world_env.errors import InvalidOptionError
from world_env.types import Uncertainty

ON_UNCERTAIN = ("ignore", "truncate", "terminate", "pessimistic")


@dataclass(frozen=True)
class SimulatorConfig:
    """How a twin is lived in.

    horizon: steps from the real start until truncation; None: the twin's.
    rollout_length: cap on one learned rollout, from wherever it began; None: none.
    branch_length: the same for those that began inside the data (`dataset_starts`) only, so that rollouts from real
        starts go on to the horizon; None: none.
    termination: "threshold" (the twin's) or "sample" (by the predicted probability).
    on_uncertain: what happens past the uncertainty threshold. "pessimistic" terminates and pays the lowest reward in
        the data for every step left, so that leaving the data never pays.
    uncertainty_threshold: None: the twin's.
    uncertainty: whether to compute it: True, cheaply; "full", at each step with all that the model knows; None: only
        where `on_uncertain` needs it.
    temperature: scale of the model's noise.
    dataset_starts: share of resets that begin from a state inside an episode of the data.
    observation_mode: what agents see: "pixels", the observation in the real environment's form, vectors too; "latent",
        the model's features alone, without decoding; "both".
    """

    horizon: int | None = None
    rollout_length: int | None = None
    branch_length: int | None = None
    termination: str = "threshold"
    on_uncertain: str = "ignore"
    uncertainty_threshold: float | None = None
    uncertainty: Uncertainty | None = None
    temperature: float = 1.0
    dataset_starts: float = 0.0
    observation_mode: str = "pixels"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("termination", self.termination, ("threshold", "sample")),
            ("on_uncertain", self.on_uncertain, ON_UNCERTAIN),
        ):
            if value not in allowed:
                raise InvalidOptionError(
                    f"{name} is {value!r}, expected one of {', '.join(map(repr, allowed))}"
                )
        for name, length in (
            ("horizon", self.horizon),
            ("rollout_length", self.rollout_length),
            ("branch_length", self.branch_length),
        ):
            if length is not None:
                whole_number(length, name)
        if self.uncertainty not in (None, True, False, "full"):
            raise InvalidOptionError(
                f"uncertainty is {self.uncertainty!r}, expected True, False, 'full' or None"
            )
        threshold = 0.0 if self.uncertainty_threshold is None else self.uncertainty_threshold
        for name, number, most, expected in (
            ("dataset_starts", self.dataset_starts, 1.0, "a share in 0..1"),
            ("temperature", self.temperature, sys.float_info.max, "a finite number >= 0"),
            ("uncertainty_threshold", threshold, math.inf, "a number >= 0, or None"),
        ):
            # Comparisons with NaN are False.
            if not isinstance(number, Real) or not 0.0 <= float(number) <= most:
                raise InvalidOptionError(f"{name} is {number!r}, expected {expected}")


def whole_number(value: Any, name: str) -> int:
    """`value` as an int. Raises InvalidOptionError unless it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InvalidOptionError(f"{name} is {value!r}, expected a whole number of at least 1")
    return int(value)


OBSERVATION_MODES = ("pixels", "latent", "both")


LATENT = "latent"
"""Key of the model's features beside observations, (B, F) float32."""


def check_mode(mode: str) -> None:
    """Raises InvalidOptionError for what is no observation mode."""
    if mode not in OBSERVATION_MODES:
        raise InvalidOptionError(
            f"observation_mode is {mode!r}, expected one of {', '.join(map(repr, OBSERVATION_MODES))}"
        )
