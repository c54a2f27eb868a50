"""Settings of exploration: the actions that collect the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from world_env.errors import InvalidOptionError
from world_env.struct import Struct


class RandomExploration(Struct, frozen=True, tag_field="kind", tag="random"):
    """Uniform random actions, drawn anew at each step."""


class HeldExploration(Struct, frozen=True, tag_field="kind", tag="held"):
    """Random actions, each held for several steps. They move the environment further than uniform actions."""

    steps: float
    """Mean number of steps that a random action is held, at least 1."""

    def __post_init__(self) -> None:
        if not 1.0 <= self.steps < math.inf:
            raise InvalidOptionError(
                f"steps of held actions is {self.steps}, expected a finite number >= 1"
            )


class CountBasedExploration(Struct, frozen=True, tag_field="kind", tag="count_based"):
    """Actions toward rarely tried pairs of state and action, where both are categories."""


class PolicyExploration(Struct, frozen=True, tag_field="kind", tag="policy"):
    """Actions of a saved policy."""

    path: str
    """Folder of the policy. In `later_exploration` of a refinement also "selected" (the selected policy of the last
    round), "newest" (its newest policy) or the name of an explorer."""
    deterministic: bool = False
    """Use the deterministic actions of the policy instead of sampled ones."""


class StuckSensorsExploration(Struct, frozen=True, tag_field="kind", tag="stuck_sensors"):
    """Sampled actions of a saved policy, some of whose observation dimensions are constant during an episode."""

    path: str
    """Folder of the policy, as in policy exploration."""
    share: float = 0.5
    """Share of the observation dimensions that are constant, in (0, 1]."""

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise InvalidOptionError(
                f"share of stuck dimensions is {self.share}, expected a number in (0, 1]"
            )


class MixtureExploration(Struct, frozen=True, tag_field="kind", tag="mixture"):
    """Mixture of explorations, one of them for each whole episode."""

    parts: tuple[ExplorationConfig, ...]
    """Explorations of the mixture."""
    weights: tuple[float, ...]
    """Weight of each part: its share of the steps."""

    def __post_init__(self) -> None:
        if (
            not self.parts
            or len(self.parts) != len(self.weights)
            or not all(0.0 <= weight < math.inf for weight in self.weights)
            or not sum(self.weights) > 0.0
        ):
            raise InvalidOptionError(
                f"a mixture of {len(self.parts)} explorations has the weights {list(self.weights)}: expected one "
                "weight >= 0 for each, at least one of them above 0"
            )


ExplorationConfig: TypeAlias = (
    RandomExploration
    | HeldExploration
    | CountBasedExploration
    | PolicyExploration
    | StuckSensorsExploration
    | MixtureExploration
)
"""Settings of any exploration."""
KINDS = (
    RandomExploration,
    HeldExploration,
    CountBasedExploration,
    PolicyExploration,
    StuckSensorsExploration,
    MixtureExploration,
)
"""Classes of `ExplorationConfig`."""


def random_and_held(steps: float) -> MixtureExploration:
    """Uniform random actions and actions held for `steps` steps on average, in half of the steps each."""
    parts = (RandomExploration(), HeldExploration(steps=steps))
    return MixtureExploration(parts=parts, weights=(0.5, 0.5))


def check_exploration(config: ExplorationConfig, name: str = "exploration") -> None:
    """Raise InvalidOptionError unless `config` is one of the exploration settings.

    name: of the argument, for the message.
    """
    if not isinstance(config, KINDS):
        raise InvalidOptionError(
            f"{name} is {config!r}, expected one of {', '.join(kind.__name__ for kind in KINDS)}"
        )


def policies_of(config: ExplorationConfig) -> set[str]:
    """Paths of all policies that an exploration uses."""
    if isinstance(config, MixtureExploration):
        return set().union(*map(policies_of, config.parts))
    return (
        {config.path} if isinstance(config, PolicyExploration | StuckSensorsExploration) else set()
    )


def with_folders(config: ExplorationConfig, folders: Mapping[str, Path]) -> ExplorationConfig:
    """Return the exploration with the folders of policies in place of their names.

    folders: name -> folder; a path that is no name stays as it is.
    """
    if isinstance(config, MixtureExploration):
        return config.replace(parts=tuple(with_folders(part, folders) for part in config.parts))
    if isinstance(config, PolicyExploration | StuckSensorsExploration):
        return config.replace(path=str(folders.get(config.path, config.path)))
    return config
