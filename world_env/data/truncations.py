"""Truncations that are ends of the task."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from world_env.data.episode import Episode
from world_env.data.validation.episode_ends import told_truncations
from world_env.spec import WorldSpec


def truncations_as_terminations(episodes: Sequence[Episode], spec: WorldSpec) -> list[Episode]:
    """Mark episodes as terminated whose truncation, before the time limit, follows from the state.

    For environments that report ends of the task as truncations, such as leaving an arena. Other truncations stay:
    those at the time limit, and those in states after which other episodes continue, such as the last episode of a
    collection.

    Returns the episodes in the same order.
    """
    ends = set(told_truncations(dict(enumerate(episodes)), spec))
    return [
        dataclasses.replace(episode, terminated=True, truncated=False) if n in ends else episode
        for n, episode in enumerate(episodes)
    ]
