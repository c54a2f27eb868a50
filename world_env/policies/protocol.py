"""Protocol of the policies that act in the real environment during data collection."""

from __future__ import annotations

from typing import Any, Protocol


class Exploration(Protocol):
    """Policy for data collection. The same episodes and the same seeds give the same actions."""

    def reset(self, seed: int) -> None:
        """Start an episode."""

    def act(self, observation: Any) -> Any:
        """Return an action of the action space for one unbatched observation."""

    def skip(self, seed: int, steps: int) -> None:
        """Account for an episode collected before an interruption.

        Only policies with a state across episodes need it. seed: reset seed of the episode. steps: its length.
        """
        return None
