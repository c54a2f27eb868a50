"""Sources of episodes: episode stores and Minari data sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from world_env.data.episode import Episode
from world_env.data.minari import read_minari
from world_env.data.recording import checked_episodes
from world_env.data.store import EpisodeStore
from world_env.errors import InvalidOptionError, StageError
from world_env.results.provenance import Provenance
from world_env.spec import EnvConfig, WorldSpec
from world_env.struct import integer

_MINARI = "minari:"


def open_dataset(
    text: str, *, horizon: int | None = None
) -> tuple[WorldSpec, list[Episode], Provenance]:
    """Open a data set: its spec, its episodes and the provenance of a twin fitted to them.

    text: folder of an episode store, or "minari:ID" of a local Minari data set.
    horizon: time limit of the task in steps, instead of that of the data; None: that of the data.

    Raises StageError if there is no such data set, DataError for an episode that is not usable, InvalidOptionError
    for a horizon shorter than an episode.
    """
    spec, recordings, provenance = open_recordings(text)
    episodes = checked_episodes(recordings)
    if horizon is None:
        return spec, episodes, provenance
    horizon = integer(horizon, "horizon")
    longest = max((episode.elapsed + len(episode) for episode in episodes), default=0)
    if longest > horizon or horizon < 1:
        raise InvalidOptionError(
            f"horizon is {horizon}, but the longest episode has {longest} steps: give the time limit of the task"
        )
    return dataclasses.replace(spec, horizon=horizon), episodes, provenance


def open_recordings(text: str) -> tuple[WorldSpec, Sequence[Episode], Provenance]:
    """`open_dataset` without checks of the episodes, for `lint`."""
    name = text.removeprefix(_MINARI)
    if name != text:
        return read_minari(name)
    store = EpisodeStore(text)
    real = store.provenance.get("real")
    provenance = Provenance(
        real=None
        if real is None
        else EnvConfig.from_json(
            real, where=f"field 'real' of the provenance of {text}", error=StageError
        ),
        real_steps=store.real_steps,
        stages={"data": store.provenance},
    )
    return store.spec, store.load(), provenance
