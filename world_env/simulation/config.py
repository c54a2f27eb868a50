"""Options of a simulator and of its observation mode."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

from world_env.errors import InvalidOptionError
from world_env.types import JSON, Uncertainty

ON_UNCERTAIN = ("ignore", "truncate", "terminate", "pessimistic")
"""Values of `SimulatorConfig.on_uncertain`."""


@dataclass(frozen=True)
class SimulatorConfig:
    """Simulation options of a twin. Raises InvalidOptionError for a wrong value."""

    horizon: int | None = None
    """Time limit in steps, counted from the real initial state (default None: the twin's). The episode is truncated
    there."""
    rollout_length: int | None = None
    """Maximum length in steps of any learned rollout, counted from its reset (default None: no limit)."""
    branch_length: int | None = None
    """Maximum length in steps of rollouts that start inside a data episode, see `dataset_starts` (default None: no
    limit). Rollouts from real initial states are not affected."""
    termination: str = "threshold"
    """When a step terminates: "threshold" (default) compares the predicted probability with the twin's threshold,
    "sample" draws from the predicted probability."""
    on_uncertain: str = "ignore"
    """What happens above the uncertainty threshold: "ignore" (default), "truncate", "terminate", or "pessimistic",
    which terminates with the lowest reward in the data for every remaining step."""
    uncertainty_threshold: float | None = None
    """Uncertainty above which `on_uncertain` applies (default None: the twin's, its largest value on the data)."""
    uncertainty: Uncertainty | None = None
    """Compute the uncertainty of each step: True (cheap estimate), "full" (all ensemble members at each step), False,
    or None (default: only if `on_uncertain` needs it)."""
    temperature: float = 1.0
    """Scale of the model's noise (default 1.0). 0 gives the most likely next state."""
    dataset_starts: float = 0.0
    """Fraction of resets that start from a state inside a data episode (default 0.0: real initial states only)."""
    conditioning: JSON = field(default_factory=dict)
    """Conditioning of all environments, name -> value, for world models that have it (default {}: that of the initial
    state in the data). `reset(options={"conditioning": ...})` sets it per environment."""
    observation_mode: str = "observation"
    """What the agent receives: "observation" (default), the real environment's observation;
    "latent", the model's features, without decoding; "both", a dict of the two."""

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
        for name, number, largest, expected in (
            ("dataset_starts", self.dataset_starts, 1.0, "a fraction in [0, 1]"),
            ("temperature", self.temperature, sys.float_info.max, "a finite number >= 0"),
            ("uncertainty_threshold", threshold, math.inf, "a number >= 0, or None"),
        ):
            # A comparison with NaN is False.
            if not isinstance(number, Real) or not 0.0 <= float(number) <= largest:
                raise InvalidOptionError(f"{name} is {number!r}, expected {expected}")


def whole_number(value: Any, name: str) -> int:
    """Return `value` as an int. Raises InvalidOptionError unless it is an integer >= 1.

    name: of the argument, for the message.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InvalidOptionError(f"{name} is {value!r}, expected an integer >= 1")
    return int(value)


OBSERVATION_MODES = ("observation", "latent", "both")
"""Values of `SimulatorConfig.observation_mode`."""
LATENT = "latent"
"""Key of the model's features, (B, F) float32, in a dict observation."""


def check_mode(mode: str) -> None:
    """Raise InvalidOptionError unless `mode` is an observation mode."""
    if mode not in OBSERVATION_MODES:
        raise InvalidOptionError(
            f"observation_mode is {mode!r}, expected one of {', '.join(map(repr, OBSERVATION_MODES))}"
        )
