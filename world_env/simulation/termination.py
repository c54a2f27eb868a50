"""Sharp ends: bounds of single dimensions beyond which no real episode ever went on.

Many tasks end where one number passes a limit: an angle, a height. A network learns such a limit only as sharply as the
data that crossed it slowly, and a policy finds the rest: it hovers a little beyond, where in reality it would be over.
The data tells such limits themselves.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from world_env.spec import DataRange


class EndBounds:
    """The bounds in a data range, quick to ask; none of them where there is no range, or nothing in it ended so."""

    def __init__(self, ranges: DataRange | None) -> None:
        low, high = ([], []) if ranges is None or ranges.ends is None else ranges.ends
        self._below = [place for place, value in enumerate(low) if value is not None]
        self._above = [place for place, value in enumerate(high) if value is not None]
        self._low = np.array([value for value in low if value is not None])
        self._high = np.array([value for value in high if value is not None])

    def __bool__(self) -> bool:
        return bool(self._below or self._above)

    def told(self) -> list[str]:
        """Each as a text."""
        below = zip(self._below, self._low.tolist(), strict=True)
        above = zip(self._above, self._high.tolist(), strict=True)
        return [f"dimension {place} below {value:.4g}" for place, value in below] + [
            f"dimension {place} above {value:.4g}" for place, value in above
        ]

    def beyond(self, observation: Any) -> np.ndarray:
        """(B,) bool: which of the observations (B, *O), environment units, lie beyond one of them."""
        flat = np.asarray(observation).reshape(len(observation), -1)
        below = (flat[:, self._below] < self._low).any(1)
        return np.asarray(below | (flat[:, self._above] > self._high).any(1))
