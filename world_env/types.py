"""Types without tensors that every layer uses."""

from __future__ import annotations

from typing import Any, Literal

OBSERVATION = "observation"
"""The key of an observation that is not a Dict."""


JSON = dict[str, Any]


Uncertainty = bool | Literal["full"]
"""Whether `Prediction.uncertainty` is wanted: True, as the family gives it cheaply; "full", at whatever it costs."""


"""Of a model's hidden layers while it steps; the state is never rounded."""
