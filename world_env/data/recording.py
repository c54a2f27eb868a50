"""Episodes with what is known of their environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from world_env.data.episode import Episode
from world_env.errors import DataError


@dataclass(frozen=True, eq=False, repr=False)
class Recording(Episode):
    """An episode as somebody else recorded it, whatever is wrong with it: for `lint`, never for a fit.

    early_end: first step before the last that claims to end the episode; None: no such step.
    """

    early_end: int | None = None

    def _problem(self) -> str | None:
        return None

    def checked(self) -> Episode:
        """The episode that it is. Raises DataError where something is wrong."""
        if self.early_end is not None:
            raise DataError(f"it goes on after step {self.early_end}, which ended it: cut it there")
        return Episode(
            self.observations, self.actions, self.rewards, self.terminated, self.truncated,
            self.elapsed, self.seed,
        )  # fmt: skip


def checked_episodes(recordings: Sequence[Episode]) -> list[Episode]:
    """The recordings as episodes. Raises DataError for the first that is not usable."""
    episodes = []
    for number, recording in enumerate(recordings):
        try:
            usable = recording.checked() if isinstance(recording, Recording) else recording
        except (DataError, TypeError, AttributeError, IndexError) as error:
            raise DataError(
                f"episode {number} is not usable: {error}. `world-env lint` lists all that is wrong."
            ) from error
        episodes.append(usable)
    return episodes
