"""The protocol of policies that act in the real environment while data is collected."""

from __future__ import annotations

from typing import Any, Protocol


class Exploration(Protocol):
    """Chooses real actions. After the same episodes and `reset` with the same seed it acts the same again."""

    def reset(self, seed: int) -> None:
        """Begin an episode."""

    def act(self, observation: Any) -> Any:
        """An action of the environment's action space for one unbatched observation."""

    def skip(self, seed: int, steps: int) -> None:
        """Take in an episode of so many steps that was played before a kill, with this seed; most need not."""
        return None
