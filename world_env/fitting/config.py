"""Settings of a fit."""

from __future__ import annotations

import math
from typing import Literal

from world_env.errors import InvalidOptionError
from world_env.struct import Struct
from world_env.types import JSON

MIN_GRADIENT_STEPS, MAX_GRADIENT_STEPS = 3_000, 30_000
"""Smallest and largest default number of gradient steps of a fit."""
_STEPS_PER_GRADIENT_STEP = 10
"""Real steps per gradient step, between these limits."""


class FitConfig(Struct, frozen=True):
    """How a world model is fitted to real episodes."""

    family: str = "ensemble"
    """World model family: "ensemble" (vector observations), "rssm" (images, hidden state), "linear", or that of an
    installed package; from Python also a registered name."""
    model: JSON = {}
    """Fields of the family's configuration as JSON (empty: its defaults), for example {"members": 7}."""
    gradient_steps: int | None = None
    """Gradient steps (None: one per 10 real steps, between 3,000 and 30,000). More take longer and fit
    the data better."""
    preset: str | None = None
    """Named settings of the family: "small" or "large" for "rssm" (None: the family's defaults). `model` replaces
    single fields."""
    batch_size: int | None = None
    """Data windows per gradient step, split among ensemble members (None: the default of the family). Larger batches
    are slower and less noisy."""
    learning_rate: float | None = None
    """Peak learning rate of AdamW (None: the default of the family). It rises in a warm-up, then falls along a
    cosine."""
    weight_decay: float = 1e-5
    """Decoupled weight decay of AdamW. Larger values give smaller weights and less overfitting."""
    max_gradient_norm: float = 10.0
    """Maximum gradient norm. Larger gradients are scaled down to it, which limits the effect of outliers."""
    validation_fraction: float = 0.1
    """Fraction of the episodes in the validation split, in (0, 1). They select the best weights and set thresholds; the
    model does not train on them."""
    validate_every: int = 250
    """Gradient steps between two measurements of the validation error, and between two checkpoints. Smaller values
    select better weights, but the fit takes longer."""
    eval_horizon: int = 200
    """Longest rollout in steps that measures the validation error. Longer ones select weights for longer episodes, but
    the fit takes longer."""
    eval_windows: int = 256
    """Maximum number of rollouts that measure the validation error, spread evenly over the validation split."""
    allow_errors: bool = False
    """Fit although `lint` finds errors in the data. They are stored in the twin and shown on its card."""
    truncations: Literal["limits", "ends"] = "limits"
    """Meaning of truncations before the time limit: "limits": the episode would continue. "ends": they are learned as
    terminations where they follow from the state, for example where an agent leaves an arena."""
    max_dataset_states: int = 2_000
    """Maximum number of states inside the data that the twin stores as start states of learned episodes. Short
    rollouts need more of them to cover the data."""
    hard_termination_bounds: bool = True
    """Use hard termination bounds: the twin also terminates where one observation dimension passes a bound beyond which
    every episode of the data ended. Off: only the model predicts termination."""
    seed: int = 0
    """Random seed of the weights, the data windows and the validation split. Another seed gives another twin."""
    device: str = "cpu"
    """Torch device of the fit, such as "cpu" or "cuda". A GPU speeds up image models. The finished twin is on
    the CPU."""

    def __post_init__(self) -> None:
        for name in (
            "gradient_steps",
            "batch_size",
            "validate_every",
            "eval_horizon",
            "eval_windows",
            "max_dataset_states",
        ):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise InvalidOptionError(f"{name} is {number}, expected an integer >= 1")
        if self.learning_rate is not None and not 0.0 < self.learning_rate < math.inf:
            raise InvalidOptionError(
                f"learning_rate is {self.learning_rate}, expected a finite number > 0"
            )
        if not 0.0 <= self.weight_decay < math.inf:
            raise InvalidOptionError(
                f"weight_decay is {self.weight_decay}, expected a finite number >= 0"
            )
        if not self.max_gradient_norm > 0.0:
            raise InvalidOptionError(
                f"max_gradient_norm is {self.max_gradient_norm}, expected a number > 0"
            )
        if not 0.0 < self.validation_fraction < 1.0:
            raise InvalidOptionError(
                f"validation_fraction is {self.validation_fraction}, expected a number in (0, 1)"
            )


def gradient_steps_for(steps: int) -> int:
    """Return the default number of gradient steps of a fit to `steps` real steps."""
    return min(max(MIN_GRADIENT_STEPS, steps // _STEPS_PER_GRADIENT_STEP), MAX_GRADIENT_STEPS)
