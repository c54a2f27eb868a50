"""Episodes from wherever they are kept: our stores, and Minari, the common format of offline data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from world_env.data.episode import Episode
from world_env.data.minari import read_minari
from world_env.data.recording import checked_episodes
from world_env.data.store import EpisodeStore
from world_env.errors import InvalidOptionError
from world_env.spec import WorldSpec
from world_env.types import JSON

_MINARI = "minari:"


def open_dataset(text: str, *, horizon: int | None = None) -> tuple[WorldSpec, list[Episode], JSON]:
    """(interface, episodes, provenance for a twin) of an episode store's folder, or of "minari:ID".

    horizon: the task's time limit in steps, instead of the one that the data names, or does not.
    Raises StageError where nothing is there, DataError for an episode that is not usable, InvalidOptionError for a
    horizon that an episode outlasts.
    """
    spec, recordings, provenance = open_recordings(text)
    episodes = checked_episodes(recordings)
    if horizon is None:
        return spec, episodes, provenance
    longest = max((episode.elapsed + len(episode) for episode in episodes), default=0)
    if longest > horizon or horizon < 1:
        raise InvalidOptionError(
            f"horizon is {horizon}, but the longest episode lasts {longest} steps: give the task's own time limit"
        )
    return dataclasses.replace(spec, horizon=horizon), episodes, provenance


def open_recordings(text: str) -> tuple[WorldSpec, Sequence[Episode], JSON]:
    """The same as it was recorded, whatever is wrong with it: for `lint`."""
    name = text.removeprefix(_MINARI)
    if name != text:
        return read_minari(name)
    store = EpisodeStore(text)
    provenance: JSON = {"data": store.provenance, "real_steps": store.real_steps}
    if "real" in store.provenance:
        provenance["real"] = store.provenance["real"]
    return store.spec, store.load(), provenance
