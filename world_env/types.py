"""Types without tensors that all layers use."""

from __future__ import annotations

from typing import Any, Literal

OBSERVATION = "observation"
"""Key of an observation whose space is not a Dict."""
JSON = dict[str, Any]
"""A JSON object: str keys; values are dicts, lists, strings, numbers, booleans or None."""
Uncertainty = bool | Literal["full"]
"""Whether to compute `Prediction.uncertainty`. False: skip it. True: the family's cheap estimate. "full": the family's
best estimate, at any cost."""
