"""Real episodes in memory, and their split into training and validation.

Time alignment as in Minari: observation[t] --action[t]--> reward[t], terminated[t], observation[t+1].
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from world_env.errors import DataError, TooLittleDataError
from world_env.seeding import SeedPurpose, derived_seed
from world_env.types import JSON, OBSERVATION

_MIN_EPISODES_FOR_WHOLE = 10
"""With fewer episodes, `split` takes a block of each episode for validation instead of whole episodes."""
Piece = tuple[int, int, int]
"""(episode number, start, stop): steps start..stop-1 of an episode."""


@dataclass(frozen=True, eq=False, repr=False)
class Episode:
    """One real episode, or a contiguous part of one, in the units of the environment.

    observations: (T+1, ...) array, or a dict of such arrays.
    actions: (T, ...) array, as passed to the environment.
    rewards: (T,) float32, task units.
    terminated: whether the last step terminated the task; a time limit is a truncation.
    truncated: whether the episode was stopped before the task terminated.
    elapsed: steps since the reset of the environment at observation 0.
    seed: seed of the reset; None: unknown.
    conditioning: name -> array of any shape, values of the whole episode, for world models with conditioning.

    Raises DataError for columns of different lengths, an episode without steps, and NaN or infinite values.
    """

    observations: np.ndarray | dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool
    truncated: bool
    elapsed: int = 0
    seed: int | None = None
    conditioning: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = self.observations
        object.__setattr__(
            self,
            "observations",
            {key: _array(f"{OBSERVATION}.{key}", part) for key, part in parts.items()}
            if isinstance(parts, dict)
            else _array(OBSERVATION, parts),
        )
        object.__setattr__(self, "actions", _array("action", self.actions))
        rewards = _array("reward", self.rewards)
        if np.issubdtype(rewards.dtype, np.number) or rewards.dtype == bool:
            rewards = rewards.astype(np.float32)
        object.__setattr__(self, "rewards", rewards)
        problem = self._problem()
        if problem:
            raise DataError(f"episode (seed {self.seed}, from step {self.elapsed}): {problem}")

    def __len__(self) -> int:
        return len(self.actions)

    def __repr__(self) -> str:
        shapes = {key: value.shape for key, value in self.columns().items()}
        end = "terminated" if self.terminated else "truncated" if self.truncated else "open"
        return (
            f"Episode({len(self)} steps, {shapes}, {end}, elapsed={self.elapsed}, seed={self.seed})"
        )

    def observation_columns(self) -> dict[str, np.ndarray]:
        """Observations by key, (T+1, ...) each; a plain observation has the key "observation"."""
        parts = self.observations
        return parts if isinstance(parts, dict) else {OBSERVATION: parts}

    def columns(self) -> dict[str, np.ndarray]:
        """All arrays by their names on disk."""
        named = {
            key if key == OBSERVATION and not isinstance(self.observations, dict)
            else f"{OBSERVATION}.{key}": value
            for key, value in self.observation_columns().items()
        }  # fmt: skip
        return {**named, "action": self.actions, "reward": self.rewards}

    def digest(self) -> str:
        """First 8 hex digits of the SHA-256 of the arrays: equal episodes have equal digests in any format."""
        total = hashlib.sha256()
        for name, column in sorted(self.columns().items()):
            total.update(f"{name} {column.dtype} {column.shape}".encode())
            total.update(np.ascontiguousarray(column).tobytes())
        for name, value in sorted(self.conditioning.items()):
            total.update(name.encode() + np.asarray(value, np.float32).tobytes())
        return total.hexdigest()[:8]

    def cut(self, start: int, stop: int) -> Episode:
        """Steps start..stop-1 as an episode of their own, truncated if they end before the last step."""
        if not 0 <= start < stop <= len(self):
            raise ValueError(
                f"cannot cut steps {start}..{stop} of an episode of {len(self)} steps: expected "
                f"0 <= start < stop <= {len(self)}"
            )
        parts = {key: value[start : stop + 1] for key, value in self.observation_columns().items()}
        whole = stop == len(self)
        return Episode(
            parts if isinstance(self.observations, dict) else parts[OBSERVATION],
            self.actions[start:stop],
            self.rewards[start:stop],
            terminated=self.terminated and whole,
            truncated=self.truncated or not whole,
            elapsed=self.elapsed + start,
            seed=self.seed,
            conditioning=self.conditioning,
        )

    def _problem(self) -> str | None:
        steps = len(self.actions)
        if steps < 1:
            return "it has no steps, expected at least 1"
        for name in ("terminated", "truncated"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                return f"{name} is {getattr(self, name)!r:.80}, expected True or False"
        for name, value in self.conditioning.items():
            if not np.isfinite(np.asarray(value, float)).all():
                return f"conditioning {name!r} has NaN or infinite values, expected finite numbers"
        for name, column in self.columns().items():
            expected = steps + 1 if name.startswith(OBSERVATION) else steps
            if column.ndim < 1 or len(column) != expected:
                return f"column {name!r} has shape {column.shape}, expected {expected} entries"
            if column.dtype.kind not in "biuf":
                return f"column {name!r} holds values of type {column.dtype}, expected numbers"
            if not np.issubdtype(column.dtype, np.floating):
                continue
            bad = ~np.isfinite(column.reshape(expected, -1))
            if bad.any():
                step, dimension = np.argwhere(bad)[0]
                value = column.reshape(expected, -1)[step, dimension]
                return (
                    f"column {name!r}, dimension {dimension}, is {value} at entry {step}, expected "
                    "finite values: repair the data, or remove the episode"
                )
        return None


def _array(name: str, values: Any) -> np.ndarray:
    """The values as an array; an array is not copied. Raises DataError for values of different lengths."""
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DataError(
            f"the values of column {name!r} have different shapes ({error}), expected one shape per step"
        ) from error


def split(
    episodes: Sequence[Episode], validation_fraction: float = 0.1, seed: int = 0
) -> tuple[list[Episode], list[Episode]]:
    """Split episodes into (training, validation), by whole episodes.

    With few episodes, one contiguous block of each episode goes to the validation split instead.

    validation_fraction: share of the episodes (or of each episode's steps) in the validation split, in (0, 1).
    seed: seed of the choice.

    Raises TooLittleDataError if one of the two would be empty.
    """
    lengths = [len(episode) for episode in episodes]
    train, validation = split_pieces(lengths, validation_fraction, seed)
    return pieces_of(episodes, train), pieces_of(episodes, validation)


def pieces_of(episodes: Sequence[Episode], pieces: Sequence[Piece]) -> list[Episode]:
    """The pieces of one side of `split_pieces`, as episodes."""
    whole = len(episodes) >= _MIN_EPISODES_FOR_WHOLE
    return [episodes[i] if whole else episodes[i].cut(start, stop) for i, start, stop in pieces]


def split_pieces(
    lengths: Sequence[int], validation_fraction: float = 0.1, seed: int = 0
) -> tuple[list[Piece], list[Piece]]:
    """`split` of episodes with these numbers of steps, as the pieces of both sides."""
    if not 0 < validation_fraction < 1:
        raise ValueError(
            f"validation_fraction must be a share in (0, 1), got {validation_fraction}"
        )
    rng = np.random.default_rng(derived_seed(seed, SeedPurpose.SPLIT))
    train: list[Piece] = []
    validation: list[Piece] = []
    if len(lengths) >= _MIN_EPISODES_FOR_WHOLE:
        count = min(max(1, round(validation_fraction * len(lengths))), len(lengths) - 1)
        chosen = set(rng.permutation(len(lengths))[:count].tolist())
        for i, length in enumerate(lengths):
            (validation if i in chosen else train).append((i, 0, length))
        return train, validation
    for i, length in enumerate(lengths):
        block = max(1, round(validation_fraction * length))
        start = int(rng.integers(0, max(1, length - block + 1)))
        edges = [(0, start, train), (start, start + block, validation),
                 (start + block, length, train)]  # fmt: skip
        for first, last, side in edges if length > block else [(0, length, train)]:
            if last > first:
                side.append((i, first, last))
    if not train or not validation:
        raise TooLittleDataError(
            f"{len(lengths)} episodes with {sum(lengths)} steps cannot be split into training and "
            "validation: collect at least one episode of 2 steps"
        )
    return train, validation


def digests(episodes: Sequence[Episode], validation: Sequence[Episode]) -> JSON:
    """Digests of the two sides of a `split`: {"trained_on": [...], "validated_on": [...]}.

    An episode of which only a block is in the validation split counts as trained on.
    """
    whole = set(map(id, validation))
    sides: JSON = {"trained_on": [], "validated_on": []}
    for episode in episodes:
        sides["validated_on" if id(episode) in whole else "trained_on"].append(episode.digest())
    return sides


def stacked_conditioning(episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
    """Conditioning of all episodes, name -> (episodes, ...) float32. Raises DataError unless all have the same."""
    values = [
        {name: np.asarray(value, np.float32) for name, value in episode.conditioning.items()}
        for episode in episodes
    ]
    shapes = [{name: value.shape for name, value in one.items()} for one in values]
    for i, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise DataError(
                f"episode {i} has conditioning of the shapes {shape}, expected {shapes[0]} as in episode 0"
            )
    return {name: np.stack([one[name] for one in values]) for name in shapes[0]}
