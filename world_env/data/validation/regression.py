"""Transitions as arrays, and cross-validated regression on them: the basis of the checks of `lint`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from world_env.data.episode import Episode
from world_env.data.statistics import column_name
from world_env.spaces import categories, is_image, observation_spaces
from world_env.spec import Angle, WorldSpec

FOLDS = 5
_BLOCKS_PER_FOLD = 10
"""Contiguous blocks in one fold, where there are fewer than two episodes per fold."""
_RANDOM_FEATURES = 300
"""Number of random features: enough for smooth functions, solved in about a second."""
_MAX_INPUTS_FOR_PAIRS, _MAX_INPUTS_FOR_SQUARES = 32, 150
"""Largest numbers of inputs with all pairwise products as features, and with the squares."""
_RIDGE = 1e-6
_CLIP = 8.0
"""Largest absolute value of a scaled input."""


@dataclass(frozen=True)
class Transitions:
    """N concatenated steps with D observation columns and A action columns; images are left out.

    before, after: (N, D) float64 observations before and after each step; Discrete parts as one-hots.
    continuous: (D,) bool, True for columns of a Box.
    action: (N, A) float64; Discrete parts as one-hots.
    reward: (N,) float64.
    terminated: (N,) bool, True for the last step of an episode that terminated.
    episode: (N,) index of the episode, from 0.
    step: (N,) index of the step in its episode.
    elapsed: (N,) steps since the reset of the environment.
    numbers: (episodes,) number of each episode in the data set.
    names: name of each observation column.
    one_hot_actions: whether the actions are Discrete.
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
    names: list[str]
    one_hot_actions: bool

    def __len__(self) -> int:
        return len(self.reward)

    def where(self, index: int) -> str:
        """Location of a step for messages, such as "episode 3, step 49"."""
        return f"episode {self.numbers[self.episode[index]]}, step {self.step[index]}"

    def scales(self) -> np.ndarray:
        """Widths of the observation columns, (D,), > 0: of the middle 90 %, at least a share of the deviation."""
        low, high = np.quantile(self.before, [0.05, 0.95], axis=0)
        width = np.maximum(high - low, 0.2 * self.before.std(0))
        return np.where(width > 1e-9, width, 1.0)

    def folds(self) -> np.ndarray:
        """Fold of each step, (N,) in [0, FOLDS): by whole episodes, or by contiguous blocks of few episodes."""
        episodes = int(self.episode[-1]) + 1
        if episodes >= 2 * FOLDS:
            return np.random.default_rng(0).permutation(episodes)[self.episode] % FOLDS
        block = max(20, len(self) // (FOLDS * _BLOCKS_PER_FOLD))
        return np.arange(len(self)) // block % FOLDS


def to_transitions(numbered: Mapping[int, Episode], spec: WorldSpec) -> Transitions:
    """Concatenate the steps of at least one episode, each valid for the spaces of `spec`.

    numbered: number in the data set -> episode.
    """
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
        names=_names(spec),
        one_hot_actions=not isinstance(spec.action_space, spaces.Box),
    )


def with_encoded_angles(
    data: Transitions, spec: WorldSpec, angles: Mapping[str, Sequence[Angle]]
) -> Transitions:
    """Replace angles that wrap by cosine and sine: in a regression the jump would look like a hidden cause.

    angles: observation key -> angles among its columns.
    """
    before, after, continuous, names = data.before, data.after, data.continuous, list(data.names)
    start = 0
    for key, space in vector_spaces(spec).items():
        for angle in angles.get(key, ()):
            column, turn = start + angle.column, 2.0 * np.pi / angle.period
            phases = [turn * (values[:, column] - angle.low) for values in (before, after)]
            sines = [np.sin(phase)[:, None] for phase in phases]
            before, after = (np.concatenate(x, 1) for x in zip((before, after), sines, strict=True))
            before[:, column], after[:, column] = (np.cos(phase) for phase in phases)
            continuous = np.append(continuous, True)
            names.append(names[column])
        start += _columns(space)
    return dataclasses.replace(data, before=before, after=after, continuous=continuous, names=names)


def vector_spaces(spec: WorldSpec) -> dict[str, spaces.Space]:
    """Observation spaces by key, without images."""
    parts = observation_spaces(spec.observation_space)
    return {key: space for key, space in parts.items() if not is_image(space)}


def table_of(values: np.ndarray, space: spaces.Space) -> np.ndarray:
    """Values (rows, ...) of a space as a (rows, columns) float64 table; Discrete parts as one-hots."""
    flat = values.reshape(len(values), -1)
    if isinstance(space, spaces.Box):
        return flat.astype(np.float64)
    sizes, starts = categories(space)
    parts = [
        np.eye(n)[flat[:, i] - start]
        for i, (n, start) in enumerate(zip(sizes, starts, strict=True))
    ]
    return np.concatenate(parts, axis=1)


def cross_validated_error(
    inputs: np.ndarray, targets: np.ndarray, folds: np.ndarray, *, also: np.ndarray | None = None
) -> np.ndarray:
    """Absolute errors (N, M) of `cross_validated_prediction`."""
    return np.abs(cross_validated_prediction(inputs, targets, folds, also=also) - targets)


def cross_validated_prediction(
    inputs: np.ndarray, targets: np.ndarray, folds: np.ndarray, *, also: np.ndarray | None = None
) -> np.ndarray:
    """Predict targets from inputs by regressions that are fitted to the other folds.

    Ridge regression on pairwise products, or on these and random features, whichever has the smaller error for a
    target: exact for quadratic functions, accurate for smooth ones (random features: Rahimi and Recht 2007).

    inputs: (N, D).
    targets: (N, M).
    folds: (N,) in [0, FOLDS).
    also: (N, F) further features, not scaled.

    Returns (N, M) predictions.
    """
    scaled = _scaled(inputs)
    plain = _products(scaled)
    if also is not None:
        plain = np.concatenate([plain, also], axis=1)
    smooth = np.concatenate([plain, _random_features(scaled)], axis=1)
    predictions = _predicted(smooth, targets, folds, [plain.shape[1], smooth.shape[1]])
    errors = [np.abs(each - targets).mean(0) for each in predictions]
    return np.where(errors[0] <= errors[1], *predictions)


def _scaled(columns: np.ndarray) -> np.ndarray:
    low, middle, high = np.quantile(columns, [0.05, 0.5, 0.95], axis=0)
    width = np.maximum((high - low) / 3.29, 0.3 * columns.std(0))
    return np.clip((columns - middle) / np.where(width > 1e-9, width, 1.0), -_CLIP, _CLIP)


def _products(x: np.ndarray) -> np.ndarray:
    constant, size = np.ones((len(x), 1)), x.shape[1]
    if size > _MAX_INPUTS_FOR_SQUARES:
        return np.concatenate([constant, x], axis=1)
    first, second = (
        np.triu_indices(size) if size <= _MAX_INPUTS_FOR_PAIRS else (np.arange(size),) * 2
    )
    return np.concatenate([constant, x, x[:, first] * x[:, second]], axis=1)


def _random_features(x: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    # Slopes of several orders: the length scale of the function is unknown.
    slope = np.exp(rng.uniform(np.log(0.5), np.log(4.0), _RANDOM_FEATURES))
    slopes = rng.normal(size=(x.shape[1], _RANDOM_FEATURES)) / np.sqrt(x.shape[1]) * slope
    return np.tanh(x @ slopes + rng.uniform(-2.0, 2.0, _RANDOM_FEATURES))


def _predicted(
    features: np.ndarray, targets: np.ndarray, folds: np.ndarray, sizes: Sequence[int]
) -> list[np.ndarray]:
    """Predict the targets of each fold by a ridge regression on the other folds: on the first features.

    sizes: numbers of features, one regression each.
    """
    features = features / (np.sqrt((features**2).mean(0)) + 1e-12)
    members = [folds == fold for fold in range(FOLDS)]
    grams = [features[rows].T @ features[rows] for rows in members]
    moments = [features[rows].T @ targets[rows] for rows in members]
    gram, moment = sum(grams), sum(moments)
    predicted = [np.zeros_like(targets) for _ in sizes]
    for rows, own, own_moment in zip(members, grams, moments, strict=True):
        left = gram - own
        left[np.diag_indices_from(left)] += _RIDGE * np.count_nonzero(~rows)
        for size, into in zip(sizes, predicted, strict=True):
            weights = np.linalg.solve(left[:size, :size], (moment - own_moment)[:size])
            into[rows] = features[rows, :size] @ weights
    return predicted


def _observation_table(episode: Episode, spec: WorldSpec) -> np.ndarray:
    columns = episode.observation_columns()
    rows = len(episode) + 1
    parts = [table_of(columns[key], space) for key, space in vector_spaces(spec).items()]
    return np.concatenate([np.zeros((rows, 0)), *parts], axis=1)


def column_count(spec: WorldSpec) -> int:
    """Observation columns of `Transitions`."""
    return sum(map(_columns, vector_spaces(spec).values()))


def _names(spec: WorldSpec) -> list[str]:
    sizes = {key: _columns(space) for key, space in vector_spaces(spec).items()}
    return [column_name(key, i, size) for key, size in sizes.items() for i in range(size)]


def _columns(space: spaces.Space) -> int:
    """Columns of a space in `table_of`."""
    if isinstance(space, spaces.Box):
        return int(np.prod(space.shape))
    return int(categories(space)[0].sum())


def _continuous(spec: WorldSpec) -> np.ndarray:
    kinds = [np.zeros(0, bool)]
    for space in vector_spaces(spec).values():
        kinds.append(np.full(_columns(space), isinstance(space, spaces.Box)))
    return np.concatenate(kinds)
