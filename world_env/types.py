"""Types without tensors that all layers use."""

from __future__ import annotations

from typing import Any, Literal, get_args

OBSERVATION = "observation"
"""Key of an observation whose space is not a Dict."""
JSON = dict[str, Any]
"""A JSON object: str keys; values are dicts, lists, strings, numbers, booleans or None."""
Uncertainty = bool | Literal["full"]
"""Whether to compute `Prediction.uncertainty`. False: skip it. True: the family's cheap estimate. "full": the family's
best estimate, at any cost."""
Termination = Literal["threshold", "sample"]
"""When a predicted probability of termination ends an episode: above a threshold, or by chance."""
TERMINATIONS: tuple[Termination, ...] = get_args(Termination)
"""Values of `Termination`."""
