"""Every step of some episodes as plain numbers, and how well one follows from others: what `lint` reasons with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from world_env.data.episode import Episode
from world_env.spaces import is_image, observation_spaces
from world_env.spec import WorldSpec

FOLDS = 5
_BLOCKS = 10
"""With fewer than two episodes a fold, a fold is so many contiguous blocks instead."""
_WAVES = 300
"""Random features: enough for smooth laws, few enough to be solved in a second."""
_PAIRS_UP_TO = 45
"""Inputs up to which all products of two are features; beyond it only the squares."""
_RIDGE = 1e-6
_EXTREME = 8.0


@dataclass(frozen=True)
class Transitions:
    """N steps end to end; D numbers an observation, A an action; pixels are left out.

    before, after: (N, D) float64; Discrete parts as one-hots.
    continuous: (D,) bool, which columns are of a Box.
    action: (N, A) float64, Discrete ones as one-hots.
    reward: (N,) float64. terminated: (N,) bool, the last step of an episode that terminated.
    episode: (N,) which of the episodes, from 0. step: (N,) its place in it. elapsed: (N,) steps since the real start.
    numbers: (episodes,) the number of each episode in its dataset.
    """

    before: np.ndarray
    after: np.ndarray
    continuous: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    episode: np.ndarray
    step: np.ndarray
    elapsed: np.ndarray
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.reward)

    def where(self, index: int) -> str:
        """A step's place in words."""
        return f"episode {self.numbers[self.episode[index]]}, step {self.step[index]}"

    def scales(self) -> np.ndarray:
        """(D,) widths of the observation's columns, > 0: what the middle 90 % span, or a share of the deviation."""
        low, high = np.quantile(self.before, [0.05, 0.95], axis=0)
        width = np.maximum(high - low, 0.2 * self.before.std(0))
        return np.where(width > 1e-9, width, 1.0)

    def folds(self) -> np.ndarray:
        """(N,) numbers 0..4: whole episodes, or where these are few contiguous blocks."""
        episodes = int(self.episode[-1]) + 1
        if episodes >= 2 * FOLDS:
            return np.random.default_rng(0).permutation(episodes)[self.episode] % FOLDS
        block = max(20, len(self) // (FOLDS * _BLOCKS))
        return np.arange(len(self)) // block % FOLDS


def flatten(numbered: Mapping[int, Episode], spec: WorldSpec) -> Transitions:
    """The steps of at least one episode, each valid for the spec's spaces; number in the dataset -> episode."""
    episodes = list(numbered.values())
    columns = [_observation_table(episode, spec) for episode in episodes]
    lengths = [len(episode) for episode in episodes]
    step = np.concatenate([np.arange(length) for length in lengths])
    elapsed = np.repeat([episode.elapsed for episode in episodes], lengths) + step
    last = np.cumsum(lengths) - 1
    terminated = np.zeros(len(step), bool)
    terminated[last] = [episode.terminated for episode in episodes]
    return Transitions(
        before=np.concatenate([table[:-1] for table in columns]),
        after=np.concatenate([table[1:] for table in columns]),
        continuous=_continuous(spec),
        action=np.concatenate([table_of(e.actions, spec.action_space) for e in episodes]),
        reward=np.concatenate([episode.rewards for episode in episodes]).astype(np.float64),
        terminated=terminated,
        episode=np.repeat(np.arange(len(episodes)), lengths),
        step=step,
        elapsed=elapsed,
        numbers=np.array(list(numbered)),
    )


def vector_spaces(spec: WorldSpec) -> dict[str, spaces.Space]:
    """The parts of an observation that are not pixels."""
    parts = observation_spaces(spec.observation_space)
    return {key: space for key, space in parts.items() if not is_image(space)}


def table_of(values: np.ndarray, space: spaces.Space) -> np.ndarray:
    """(rows, ...) values of a space as a (rows, columns) float64 table: Discrete parts as one-hots."""
    flat = values.reshape(len(values), -1)
    if isinstance(space, spaces.Box):
        return flat.astype(np.float64)
    sizes, starts = discrete_sizes(space)
    parts = [
        np.eye(n)[flat[:, i] - start]
        for i, (n, start) in enumerate(zip(sizes, starts, strict=True))
    ]
    return np.concatenate(parts, axis=1)


def discrete_sizes(space: spaces.Space) -> tuple[np.ndarray, np.ndarray]:
    """(number of values, first value) of each part of a Discrete or MultiDiscrete space."""
    if isinstance(space, spaces.MultiDiscrete):
        return space.nvec, space.start
    assert isinstance(space, spaces.Discrete)
    return np.array([space.n]), np.array([space.start])


def held_out_error(
    inputs: np.ndarray, targets: np.ndarray, folds: np.ndarray, *, also: np.ndarray | None = None
) -> np.ndarray:
    """(N, M) absolute errors of `held_out_prediction`."""
    return np.abs(held_out_prediction(inputs, targets, folds, also=also) - targets)


def held_out_prediction(
    inputs: np.ndarray, targets: np.ndarray, folds: np.ndarray, *, also: np.ndarray | None = None
) -> np.ndarray:
    """(N, M) what a law fitted to the other folds (N,) says of targets (N, M), given inputs (N, D).

    Ridge regression on products of two inputs, or on these and random waves, whichever is better for a target: exact
    for quadratic rewards, close for smooth ones (random features: Rahimi and Recht 2007).
    also: (N, F) further features, taken as they are.
    """
    scaled = _scaled(inputs)
    plain = _products(scaled)
    if also is not None:
        plain = np.concatenate([plain, also], axis=1)
    wavy = np.concatenate([plain, _waves(scaled)], axis=1)
    said = [_predicted(features, targets, folds) for features in (plain, wavy)]
    errors = [np.abs(each - targets).mean(0) for each in said]
    return np.where(errors[0] <= errors[1], *said)


def _scaled(columns: np.ndarray) -> np.ndarray:
    low, middle, high = np.quantile(columns, [0.05, 0.5, 0.95], axis=0)
    width = np.maximum((high - low) / 3.29, 0.3 * columns.std(0))
    return np.clip((columns - middle) / np.where(width > 1e-9, width, 1.0), -_EXTREME, _EXTREME)


def _products(x: np.ndarray) -> np.ndarray:
    first, second = (
        np.triu_indices(x.shape[1]) if x.shape[1] <= _PAIRS_UP_TO else (np.arange(x.shape[1]),) * 2
    )
    return np.concatenate([np.ones((len(x), 1)), x, x[:, first] * x[:, second]], axis=1)


def _waves(x: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    # Slow and steep ones: nothing is known of how fast the law changes.
    speed = np.exp(rng.uniform(np.log(0.5), np.log(4.0), _WAVES))
    slopes = rng.normal(size=(x.shape[1], _WAVES)) / np.sqrt(x.shape[1]) * speed
    return np.tanh(x @ slopes + rng.uniform(-2.0, 2.0, _WAVES))


def _predicted(features: np.ndarray, targets: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Each fold's targets, from a ridge regression on the others."""
    features = features / (np.sqrt((features**2).mean(0)) + 1e-12)
    members = [folds == fold for fold in range(FOLDS)]
    grams = [features[rows].T @ features[rows] for rows in members]
    moments = [features[rows].T @ targets[rows] for rows in members]
    predicted = np.zeros_like(targets)
    for rows, gram, moment in zip(members, grams, moments, strict=True):
        left = sum(grams) - gram + _RIDGE * np.count_nonzero(~rows) * np.eye(len(gram))
        predicted[rows] = features[rows] @ np.linalg.solve(left, sum(moments) - moment)
    return predicted


def _observation_table(episode: Episode, spec: WorldSpec) -> np.ndarray:
    seen = episode.observation_columns()
    rows = len(episode) + 1
    parts = [table_of(seen[key], space) for key, space in vector_spaces(spec).items()]
    return np.concatenate([np.zeros((rows, 0)), *parts], axis=1)


def _continuous(spec: WorldSpec) -> np.ndarray:
    kinds = [np.zeros(0, bool)]
    for space in vector_spaces(spec).values():
        box = isinstance(space, spaces.Box)
        size = int(np.prod(space.shape or ())) if box else int(discrete_sizes(space)[0].sum())
        kinds.append(np.full(size, box))
    return np.concatenate(kinds)
