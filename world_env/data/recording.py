"""Episodes as recorded, with possible errors: the input of `lint`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from world_env.data.episode import Episode
from world_env.errors import DataError


@dataclass(frozen=True, eq=False, repr=False)
class Recording(Episode):
    """Unchecked episode from another source. `lint` reads it; a fit needs `checked`.

    early_end: first step before the last one that is marked as terminated or truncated; None: no such step.
    """

    early_end: int | None = None

    def _problem(self) -> str | None:
        return None

    def checked(self) -> Episode:
        """Checked episode. Raises DataError if something is wrong."""
        if self.early_end is not None:
            raise DataError(
                f"step {self.early_end} is marked as terminated or truncated, but further steps follow: cut the "
                "episode there"
            )
        return Episode(
            self.observations, self.actions, self.rewards, self.terminated, self.truncated,
            self.elapsed, self.seed,
        )  # fmt: skip


def checked_episodes(recordings: Sequence[Episode]) -> list[Episode]:
    """Check all recordings. Raises DataError for the first episode that is not usable."""
    episodes = []
    for number, recording in enumerate(recordings):
        try:
            usable = recording.checked() if isinstance(recording, Recording) else recording
        except (DataError, TypeError, AttributeError, IndexError) as error:
            raise DataError(
                f"episode {number} is not usable: {error}. `world-env lint` lists all problems of the data."
            ) from error
        episodes.append(usable)
    return episodes
