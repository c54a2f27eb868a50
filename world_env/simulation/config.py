"""Options of a simulator and of its observation mode."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np

from world_env.errors import InvalidOptionError
from world_env.struct import Struct
from world_env.types import JSON, TERMINATIONS, Termination, Uncertainty

OnUncertain = Literal["ignore", "truncate", "terminate", "pessimistic"]
ON_UNCERTAIN: tuple[OnUncertain, ...] = get_args(OnUncertain)
"""Values of `SimulatorConfig.on_uncertain`."""
ObservationMode = Literal["observation", "latent", "both"]
OBSERVATION_MODES: tuple[ObservationMode, ...] = get_args(ObservationMode)
"""Values of `SimulatorConfig.observation_mode`."""


class RolloutConfig(Struct, frozen=True):
    """Settings of learned episodes. Raises InvalidOptionError for a wrong value."""

    rollout_length: int | None = None
    """Maximum length in steps of any learned rollout, counted from its reset (None: no limit). Shorter rollouts visit
    more start states and limit model error; values are bootstrapped where they end."""
    dataset_rollout_length: int | None = None
    """Maximum length in steps of rollouts that start inside a data episode, see `dataset_starts` (None: no limit).
    Rollouts from real initial states are not affected."""
    temperature: float = 1.0
    """Scale of the model's noise. 0 gives the most likely next state."""
    dataset_starts: float = 0.0
    """Fraction of resets that start from a state inside a data episode. 0: real initial states only."""

    def __post_init__(self) -> None:
        for name in ("rollout_length", "dataset_rollout_length"):
            if getattr(self, name) is not None:
                whole_number(getattr(self, name), name)
        for name, largest, expected in (
            ("dataset_starts", 1.0, "a fraction in [0, 1]"),
            ("temperature", sys.float_info.max, "a finite number >= 0"),
        ):
            _check_number(name, getattr(self, name), largest, expected)


class SimulatorConfig(RolloutConfig, frozen=True):
    """Simulation options of a twin. Raises InvalidOptionError for a wrong value."""

    on_uncertain: OnUncertain = "ignore"
    """What happens above the uncertainty threshold: "ignore", "truncate", "terminate", or "pessimistic", which
    terminates with the lowest reward in the data for every remaining step."""
    horizon: int | None = None
    """Time limit in steps, counted from the real initial state (None: the twin's). The episode is truncated there."""
    termination: Termination | None = None
    """When a step terminates: "threshold" compares the predicted probability with the twin's threshold, "sample" draws
    from the predicted probability (None: the twin's rule, chosen by its fit). Hard termination bounds hold in both."""
    uncertainty_threshold: float | None = None
    """Uncertainty above which `on_uncertain` applies (None: the twin's, its largest value on the data)."""
    uncertainty: Uncertainty | None = None
    """Compute the uncertainty of each step: True (cheap estimate), "full" (all ensemble members at each step), False,
    or None (only if `on_uncertain` needs it)."""
    conditioning: JSON = {}
    """Conditioning of all environments, name -> value, for world models that have it (empty: that of the initial
    state in the data). `reset(options={"conditioning": ...})` sets it per environment."""
    observation_mode: ObservationMode = "observation"
    """What the agent receives: "observation", the real environment's observation; "latent", the model's features,
    without decoding; "both", a dict of the two."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("on_uncertain", self.on_uncertain, ON_UNCERTAIN)
        if self.termination is not None:
            check_choice("termination", self.termination, TERMINATIONS)
        check_choice("observation_mode", self.observation_mode, OBSERVATION_MODES)
        if self.horizon is not None:
            whole_number(self.horizon, "horizon")
        if self.uncertainty not in (None, True, False, "full"):
            raise InvalidOptionError(
                f"uncertainty is {self.uncertainty!r}, expected True, False, 'full' or None"
            )
        if self.uncertainty_threshold is not None:
            expected = "a number >= 0, or None"
            _check_number("uncertainty_threshold", self.uncertainty_threshold, math.inf, expected)


def check_choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Raise InvalidOptionError unless `value` is one of the choices of the argument `name`."""
    if value not in allowed:
        raise InvalidOptionError(
            f"{name} is {value!r}, expected one of {', '.join(map(repr, allowed))}"
        )


def _check_number(name: str, value: Any, largest: float, expected: str) -> None:
    # A comparison with NaN is False.
    if not isinstance(value, Real) or not 0.0 <= float(value) <= largest:
        raise InvalidOptionError(f"{name} is {value!r}, expected {expected}")


def whole_number(value: Any, name: str) -> int:
    """Return `value` as an int. Raises InvalidOptionError unless it is an integer >= 1.

    name: of the argument, for the message.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InvalidOptionError(f"{name} is {value!r}, expected an integer >= 1")
    return int(value)


LATENT = "latent"
"""Key of the model's features, (B, F) float32, in a dict observation."""
