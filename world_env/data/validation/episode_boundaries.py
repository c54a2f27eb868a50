"""Checks of the boundaries of episodes: unmarked resets, duplicates, and overlap of splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from scipy.spatial import cKDTree

from world_env.data.episode import Episode
from world_env.data.validation.issue import LintIssue, Severity, number_of
from world_env.data.validation.regression import Transitions, cross_validated_error

_MIN_STARTS, _CERTAIN_STARTS = 3, 6
"""Initial states from which unmarked resets are looked for, and from which they are an error."""
_MIN_STEPS = 100
_MIN_SHARE_MOVING = 0.1
"""Share of the steps in which a column changes, from which its jumps count."""
_NEAR_DISTANCE = 2.0
"""Distance up to which an observation counts as near an initial state, in medians of their neighbour distance."""
_MAX_SHARE_NEAR = 0.8
"""Largest share of observations that count as near an initial state; beyond it only the nearest."""
_MIN_JUMP_NEAR_STARTS, _MIN_JUMP_ELSEWHERE = 2.0, 1.3
"""Size of a jump in 99 % quantiles of the steps that leave an initial state, and of the steps that end elsewhere."""
_MIN_DISTANCE_RATIO = 1.2
"""Distance in the same quantile that a jump with a large prediction error must have as well."""
_MAX_CHANCE = 0.01
"""Probability of the zero rewards by chance, below which they count as those of automatic resets."""
_MIN_STATES = 1_000
"""With fewer different integer observations, stretches of episodes repeat by chance and are not compared."""


def unmarked_resets(data: Transitions) -> Iterator[LintIssue]:
    """Find steps from one episode into the next: concatenated episodes, and rows of automatic resets.

    Such a step ends near an initial state, starts elsewhere, and is larger than the steps that leave an initial state
    and those that end elsewhere. Both the distance and the error of a fitted dynamics model are compared. If the rows
    of automatic resets are recorded, the initial state is the second observation of an episode.
    """
    firsts = [np.flatnonzero((data.step == place) & (data.elapsed == place)) for place in (0, 1)]
    moving = _moving(data)
    if len(firsts[0]) < _MIN_STARTS or not moving.any() or len(data) < _MIN_STEPS:
        text = (
            f"unmarked resets were not checked: expected at least {_MIN_STARTS} episodes that start at a reset, "
            f"{_MIN_STEPS} steps and a continuous observation column that changes"
        )
        yield LintIssue("unchecked", "note", text)
        return
    sizes = [_distance(data), _prediction_error(data)]
    first, second = (
        _jumps_to_starts(data, starts, sizes)
        if len(starts) >= _MIN_STARTS
        else np.zeros(len(data), bool)
        for starts in firsts
    )
    # Only the row of an automatic reset jumps in the first step: any other such jump is a wrong value.
    within = (first | second) & (data.step > 0)
    for jumps in (second, within):
        found = np.flatnonzero(jumps)
        places = "; ".join(data.where(index) for index in found[:3])
        if len(found) and _is_autoreset(data, found):
            text = (
                "automatic resets of a vector environment are recorded as steps: at least "
                f"{number_of(len(found), 'step')} (first: {places}) with reward 0 and an initial state as next "
                "observation. Remove the row after each end of an episode."
            )
            yield LintIssue("autoreset", "error", text, data.where(found[0]))
            return
    if within.any():
        text = (
            f"missing boundaries between episodes: at least {number_of(len(found), 'step')} to an initial state "
            f"(first: {places}). Cut the episodes there."
        )
        # What is near an initial state is known well from several of them only.
        severity: Severity = "error" if len(firsts[0]) >= _CERTAIN_STARTS else "warning"
        yield LintIssue("glued", severity, text, data.where(found[0]))


def duplicates(episodes: Mapping[int, Episode]) -> Iterator[LintIssue]:
    """Find episodes, or stretches of episodes, that are in the data twice, and episodes cut into parts."""
    twice, overlaps, joined = duplicate_episodes(episodes)
    if twice or overlaps:
        pairs = [f"episode {b} equals episode {a}" for a, b in twice] + [
            f"{number_of(n, 'step')} of episode {a} are in episode {b}" for a, b, n in overlaps
        ]
        counts = [
            f"{number_of(len(found), 'episode')} {what}"
            for found, what in ((twice, "in the data twice"), (overlaps, "partly in another one"))
            if found
        ]
        # Episodes of different seeds are no copies: a deterministic policy repeats itself in a deterministic world.
        copied = any(_may_be_copies(episodes[a], episodes[b]) for a, b, *_ in [*twice, *overlaps])
        do = (
            "Remove them, or the validation split contains training data."
            if copied
            else "Their reset seeds differ: environment and policy are deterministic, so the validation split "
            "contains training data. Collect with random actions."
        )
        yield LintIssue(
            "duplicates",
            "error" if copied else "warning",
            f"duplicates: {', '.join(counts)} (first: {'; '.join(pairs[:3])}). {do}",
            f"episode {(twice + [(a, b) for a, b, _ in overlaps])[0][1]}",
        )
    if joined:
        a, b = joined[0]
        yield LintIssue(
            "pieces",
            "warning",
            f"cut episodes: {number_of(len(joined), 'episode')} with the continuation of another one (first: episode "
            f"{b} continues episode {a}). Join them, or parts of one episode are in both the training and the "
            "validation split.",
            f"episode {b}",
        )


def split_overlap(
    training: Mapping[int, Episode], validation: Mapping[int, Episode]
) -> Iterator[LintIssue]:
    """Find episodes, parts of episodes and reset seeds that are in both splits."""
    number = max(training, default=-1) + 1
    both = dict(training) | {number + n: e for n, e in validation.items()}
    twice, overlaps, joined = duplicate_episodes(both)
    pairs = [*twice, *((a, b) for a, b, _ in overlaps), *joined]
    crossing = [(min(pair), max(pair)) for pair in pairs if min(pair) < number <= max(pair)]
    if crossing:
        a, b = crossing[0]
        yield LintIssue(
            "split",
            "error",
            f"the splits overlap in {number_of(len(crossing), 'pair')} of equal or continued episodes (first: episode "
            f"{a} of the training split, episode {b - number} of the validation split): the measured errors are too "
            "small. Remove these episodes from one of the splits.",
            f"episode {b - number}",
        )
    ours, theirs = (
        {episode.seed for episode in side.values() if episode.seed is not None}
        for side in (training, validation)
    )
    seeds = ours & theirs
    if seeds:
        yield LintIssue(
            "split",
            "warning",
            f"{number_of(len(seeds), 'reset seed')} in both splits (first: {', '.join(map(str, sorted(seeds)[:3]))}): "
            "episodes of one seed have the same initial state. Use different seeds in the two splits.",
        )


def duplicate_episodes(
    episodes: Mapping[int, Episode],
) -> tuple[list[tuple[int, int]], list[tuple[int, int, int]], list[tuple[int, int]]]:
    """Find duplicates, overlaps and continuations among episodes.

    A shared stretch starts at the start of one of the two episodes and lasts to the end of one of them; repetitions in
    the middle of both may come from the dynamics. Environments with few different observations repeat by chance: all
    three lists are empty for them.

    Returns (pairs of equal episodes, (one, other, steps that both contain), (one, its continuation)), by number.
    """
    rows = {number: _row_keys(episode) for number, episode in episodes.items()}
    first_of: dict[bytes, int] = {}
    twice = []
    for number, keys in rows.items():
        first = first_of.setdefault(keys.tobytes(), number)
        if first != number:
            twice.append((first, number))
    once = {number: episodes[number] for number in first_of.values()}
    if _has_few_states(once):
        return [], [], []
    return twice, _overlaps({number: rows[number] for number in once}), _joined(once)


def _has_few_states(episodes: Mapping[int, Episode]) -> bool:
    whole = all(
        (column == np.floor(column)).all()
        for episode in episodes.values()
        for column in episode.observation_columns().values()
    )
    # Images hold integers too, but many different ones.
    states = {key for episode in episodes.values() for key in _state_keys(episode)} if whole else ()
    return whole and len(states) < _MIN_STATES


def _overlaps(rows: Mapping[int, np.ndarray]) -> list[tuple[int, int, int]]:
    begins = np.array([keys[0] for keys in rows.values()], np.uint64)
    places: dict[int, list[tuple[int, int]]] = {}
    for number, keys in rows.items():
        for step in np.flatnonzero(np.isin(keys, begins)).tolist():
            places.setdefault(int(keys[step]), []).append((number, step))
    found = []
    for number, keys in rows.items():
        for other, step in places[int(keys[0])]:
            if other == number or (step == 0 and other > number):
                continue
            length = min(len(keys), len(rows[other]) - step)
            if length > 1 and np.array_equal(keys[:length], rows[other][step : step + length]):
                found.append((number, other, length))
    return found


def _joined(episodes: Mapping[int, Episode]) -> list[tuple[int, int]]:
    states = {number: _state_keys(episode) for number, episode in episodes.items()}
    begins: dict[int, list[int]] = {}
    for number, keys in states.items():
        begins.setdefault(keys[0], []).append(number)
    pairs = []
    for number, keys in states.items():
        following = begins.get(keys[-1], [])
        # An observation at which several episodes start is an initial state, not a cut.
        if len(following) == 1 and following[0] != number and not episodes[number].terminated:
            pairs.append((number, following[0]))
    return pairs


def _may_be_copies(one: Episode, other: Episode) -> bool:
    return one.seed is None or other.seed is None or one.seed == other.seed


def _row_keys(episode: Episode) -> np.ndarray:
    """Hash of observation, action and reward of each step, (T,)."""
    steps = len(episode)
    return _keys([column[:steps] for _, column in sorted(episode.columns().items())])


def _state_keys(episode: Episode) -> list[int]:
    """Hash of each observation, T+1 in all."""
    found: list[int] = _keys([c for _, c in sorted(episode.observation_columns().items())]).tolist()
    return found


def _keys(columns: list[np.ndarray]) -> np.ndarray:
    """Hash of each row over all columns, (rows,) uint64: equal for equal rows."""
    flat = np.concatenate([c.reshape(len(c), -1).astype(np.float64) for c in columns], axis=1)
    bits = (flat + 0.0).view(np.uint64)
    factors = np.random.default_rng(0).integers(1, 2**63, flat.shape[1], dtype=np.uint64) * 2 + 1
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return ((bits ^ (bits >> np.uint64(33))) * factors).sum(1, dtype=np.uint64)


def _moving(data: Transitions) -> np.ndarray:
    """Continuous columns (D,) bool that change often: a jump of a set point or a goal is no reset."""
    return ((data.before != data.after).mean(0) > _MIN_SHARE_MOVING) & data.continuous


def _distance(data: Transitions) -> np.ndarray:
    """Distance of each step (N,), the mean over columns in units of their usual change."""
    moved = np.abs(data.after - data.before)[:, _moving(data)]
    usual = np.maximum(np.median(moved, axis=0), 0.5 * moved.mean(0))
    moving = usual > 1e-12
    return np.clip(moved[:, moving] / usual[moving], 0, 20).sum(1) / max(1, moving.sum())


def _prediction_error(data: Transitions) -> np.ndarray:
    """Relative error of each step (N,) of a dynamics model fitted to other episodes."""
    moved = (data.after - data.before)[:, _moving(data)]
    usual = np.quantile(np.abs(moved), 0.9, axis=0)
    moved, usual = moved[:, usual > 1e-9], usual[usual > 1e-9]
    inputs = np.concatenate([data.before, data.action], axis=1)
    error = cross_validated_error(inputs, np.clip(moved / usual, -20, 20), data.folds())
    relative = error / np.maximum(np.quantile(error, 0.98, axis=0), 1e-4)
    return np.clip(relative, 0, 10).sum(1) / max(1, relative.shape[1])


def _jumps_to_starts(data: Transitions, starts: np.ndarray, sizes: list[np.ndarray]) -> np.ndarray:
    """Steps (N,) bool that end near the observations before the steps `starts`, and do not start near them."""
    scale = data.scales()
    tree = cKDTree(data.before[starts] / scale)
    near = _NEAR_DISTANCE * np.median(tree.query(tree.data, k=2)[0][:, 1])
    place = data.step[starts[0]]

    def distance(observations: np.ndarray, steps: np.ndarray) -> np.ndarray:
        (first, second), which = (part.T for part in tree.query(observations / scale, k=2))
        # The distance to the own initial state of an episode does not count.
        own = (data.episode[starts][which[0]] == data.episode) & (steps == place)
        return np.where(own, second, first)

    arriving = distance(data.after, data.step + 1)
    near = min(near, float(np.quantile(arriving, _MAX_SHARE_NEAR)))
    arrives, leaves = arriving <= near, distance(data.before, data.step) <= near
    distance_moved, surprise = sizes
    usual = [np.quantile(size[leaves | (data.step == place)], 0.99) for size in sizes]
    elsewhere = [np.quantile(np.append(size[~arrives], 0.0), 0.99) for size in sizes]
    bound = [
        max(_MIN_JUMP_NEAR_STARTS * u, _MIN_JUMP_ELSEWHERE * e)
        for u, e in zip(usual, elsewhere, strict=True)
    ]
    unlikely = (surprise > bound[1]) & (distance_moved > _MIN_DISTANCE_RATIO * usual[0])
    far = (distance_moved > bound[0]) | unlikely
    return arrives & ~leaves & far & ~_returns_to_previous(data)


def _returns_to_previous(data: Transitions) -> np.ndarray:
    """Steps (N,) bool back to the observation before the last one: a single wrong value, not a reset."""
    earlier = np.concatenate([data.before[:1], data.before[:-1]])
    back, moved = (
        np.linalg.norm((data.after - start) / data.scales(), axis=1)
        for start in (earlier, data.before)
    )
    return (data.step > 0) & (back < 0.5 * moved)


def _is_autoreset(data: Transitions, jumps: np.ndarray) -> bool:
    """Whether the jumps have reward 0, more often than by chance, or as first steps of episodes."""
    zero = data.reward == 0
    if not zero[jumps].mean() > 0.8:
        return False
    chance = max(zero.mean(), zero[_last(data)].mean())
    return bool((data.step[jumps] == 0).mean() > 0.8 or chance ** len(jumps) < _MAX_CHANCE)


def _last(data: Transitions) -> np.ndarray:
    return np.append(data.step[1:] == 0, True)
