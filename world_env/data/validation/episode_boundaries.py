"""Where episodes begin, end and repeat: resets taken for movements, limits for deaths, one episode counted twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import rankdata

from world_env.data.episode import Episode
from world_env.data.validation.issue import LintIssue
from world_env.data.validation.regression import (
    FOLDS,
    Transitions,
    held_out_error,
    held_out_prediction,
)
from world_env.spec import WorldSpec

_FEW_STARTS = 3
_NEAR = 2.0
"""In medians of the distance between neighbouring starts: what lies as near to one may be one."""
_MAX_NEAR = 0.8
"""Where more observations than these look like starts, only the nearest of them do."""
_JUMP_NEAR_STARTS, _JUMP_ELSEWHERE = 2.0, 1.3
"""How far a jump must exceed the 99 % quantile of steps that leave a start, and of steps that arrive elsewhere."""
_AT_LEAST = 1.2
"""How far a step that a law does not explain must exceed that quantile in distance too."""
_CHANCE = 0.01
_FEW_STATES = 1_000
"""Whole-numbered observations of fewer kinds are a world that repeats itself everywhere."""
_SEPARATE = 0.9
"""Chance that an end looks more like one than another arrival does, from which on it is one."""


def resets(data: Transitions) -> Iterator[LintIssue]:
    """Steps that lead from one episode into the next: glued episodes, and rows that only carried a reset.

    A step is one when it arrives where episodes begin, did not come from there, and moved farther than any step does
    that leaves a start, or arrives anywhere else. Both the distance and what a fitted law of motion leaves unexplained
    are looked at; of recorded reset rows, the second observation of an episode is the true start.
    """
    firsts = [np.flatnonzero((data.step == place) & (data.elapsed == place)) for place in (0, 1)]
    moving = np.any(data.before != data.after, axis=0) & data.continuous
    if len(firsts[0]) < _FEW_STARTS or not moving.any() or len(data) < 100:
        text = (
            f"there are fewer than {_FEW_STARTS} real starts, or nothing continuous moves: whether an episode "
            "was glued to the next was not looked at"
        )
        yield LintIssue("unchecked", "note", text)
        return
    sizes = [_distance(data), _surprise(data)]
    first, second = (
        _arrivals_from_nowhere(data, starts, sizes)
        if len(starts) >= _FEW_STARTS
        else np.zeros(len(data), bool)
        for starts in firsts
    )
    # Only the row of a reset jumps at once: what else does so is a wrong number.
    within = (first | second) & (data.step > 0)
    for jumps in (second, within):
        found = np.flatnonzero(jumps)
        places = ", ".join(data.where(index) for index in found[:3])
        if len(found) and _carries_only_a_reset(data, found):
            text = (
                f"at least {len(found)} steps are the reset that a vector environment makes by itself (reward 0, "
                f"action ignored, next observation a start; {places}): drop the row after each end"
            )
            yield LintIssue("autoreset", "error", text, data.where(found[0]))
            return
    if within.any():
        text = (
            f"at least {len(found)} steps jump to where episodes begin ({places}): an episode was glued to the next, "
            "cut it there"
        )
        yield LintIssue("glued", "error", text, data.where(found[0]))


def time_limits(
    data: Transitions, episodes: Mapping[int, Episode], spec: WorldSpec
) -> Iterator[LintIssue]:
    """Episodes that "terminated" at exactly the time limit, in states from which others went on."""
    totals = {number: e.elapsed + len(e) for number, e in episodes.items()}
    limit = spec.horizon or max(totals.values())
    marked = [n for n, e in episodes.items() if e.terminated and totals[n] == limit]
    if len(marked) < (1 if spec.horizon else _FEW_STARTS):
        return
    places = np.isin(data.numbers[data.episode], marked) & _last(data)
    if not _look_like_ends(data, places):
        yield LintIssue(
            "time_limit",
            "error" if len(marked) > 1 else "warning",
            f"{len(marked)} episodes are marked as terminated after exactly {limit} steps, where others go on: a time "
            "limit is a truncation; a twin would learn deaths that nothing explains",
            f"episode {marked[0]}",
        )


def repeats(episodes: Mapping[int, Episode]) -> Iterator[LintIssue]:
    """Episodes, or stretches of them, that are in the data twice, and episodes that were cut into pieces."""
    twice, overlaps, joined = related(episodes)
    if twice or overlaps:
        pairs = [f"{a} = {b}" for a, b in twice] + [
            f"{n} steps of {a} in {b}" for a, b, n in overlaps
        ]
        yield LintIssue(
            "duplicates",
            "error",
            f"{len(twice)} episodes are in the data twice, {len(overlaps)} share a stretch with another "
            f"({'; '.join(pairs[:3])}): drop them, what is held out would not be",
            f"episode {(twice + [(a, b) for a, b, _ in overlaps])[0][1]}",
        )
    if joined:
        a, b = joined[0]
        yield LintIssue(
            "pieces",
            "warning",
            f"{len(joined)} episodes go on where another was cut (the first: {a} into {b}): a split by episodes puts "
            "pieces of one on both sides; join them first",
            f"episode {b}",
        )


def shared(training: Mapping[int, Episode], held_out: Mapping[int, Episode]) -> Iterator[LintIssue]:
    """What two sides of a split have in common, though nothing of one should be in the other."""
    number = max(training, default=-1) + 1
    both = dict(training) | {number + n: e for n, e in held_out.items()}
    twice, overlaps, joined = related(both)
    pairs = [*twice, *((a, b) for a, b, _ in overlaps), *joined]
    crossing = [(min(pair), max(pair)) for pair in pairs if min(pair) < number <= max(pair)]
    if crossing:
        a, b = crossing[0]
        yield LintIssue(
            "split",
            "error",
            f"{len(crossing)} times the two sides share an episode, or pieces of one (the first: {a} of the training "
            f"side, {b - number} of the held-out one): what is measured there is not held out",
            f"episode {b - number}",
        )
    ours, theirs = (
        {episode.seed for episode in side.values() if episode.seed is not None}
        for side in (training, held_out)
    )
    seeds = ours & theirs
    if seeds:
        yield LintIssue(
            "split",
            "warning",
            f"{len(seeds)} reset seeds are on both sides ({', '.join(map(str, sorted(seeds)[:4]))}): the same starts, "
            "and with the same actions the same episodes; give each side seeds of its own",
        )


def related(
    episodes: Mapping[int, Episode],
) -> tuple[list[tuple[int, int]], list[tuple[int, int, int]], list[tuple[int, int]]]:
    """(the same twice, (one, other, steps of it that both hold), (one, the piece that goes on where it was cut)).

    A shared stretch begins where one of the two begins and ends where one of them ends: physics alone repeats itself
    in the middle, not there. Nothing is said of worlds of few states, which repeat themselves everywhere.
    """
    rows = {number: _row_keys(episode) for number, episode in episodes.items()}
    seen: dict[bytes, int] = {}
    twice = []
    for number, keys in rows.items():
        first = seen.setdefault(keys.tobytes(), number)
        if first != number:
            twice.append((first, number))
    once = {number: episodes[number] for number in seen.values()}
    if _has_few_states(once):
        return [], [], []
    return twice, _overlaps({number: rows[number] for number in once}), _joined(once)


def _has_few_states(episodes: Mapping[int, Episode]) -> bool:
    whole = all(
        (column == np.floor(column)).all()
        for episode in episodes.values()
        for column in episode.observation_columns().values()
    )
    # Pixels are whole numbers too, but of many kinds.
    states = {key for episode in episodes.values() for key in _state_keys(episode)} if whole else ()
    return whole and len(states) < _FEW_STATES


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
        # A start that many episodes share is a start, not a cut.
        if len(following) == 1 and following[0] != number and not episodes[number].terminated:
            pairs.append((number, following[0]))
    return pairs


def _row_keys(episode: Episode) -> np.ndarray:
    """(T,) one number for all that a step shows before and of its action and reward."""
    steps = len(episode)
    return _keys([column[:steps] for _, column in sorted(episode.columns().items())])


def _state_keys(episode: Episode) -> list[int]:
    """One number for each observation, T+1 of them."""
    found: list[int] = _keys([c for _, c in sorted(episode.observation_columns().items())]).tolist()
    return found


def _keys(columns: list[np.ndarray]) -> np.ndarray:
    """(rows,) uint64, equal where all columns are; a mixed sum, as good as a random number for anything else."""
    flat = np.concatenate([c.reshape(len(c), -1).astype(np.float64) for c in columns], axis=1)
    bits = (flat + 0.0).view(np.uint64)
    factors = np.random.default_rng(0).integers(1, 2**63, flat.shape[1], dtype=np.uint64) * 2 + 1
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return ((bits ^ (bits >> np.uint64(33))) * factors).sum(1, dtype=np.uint64)


def _distance(data: Transitions) -> np.ndarray:
    """(N,) how far each step moves, in what its columns usually do."""
    moved = np.abs(data.after - data.before)[:, data.continuous]
    usual = np.maximum(np.median(moved, axis=0), 0.5 * moved.mean(0))
    moving = usual > 1e-12
    return np.clip(moved[:, moving] / usual[moving], 0, 20).sum(1) / max(1, moving.sum())


def _surprise(data: Transitions) -> np.ndarray:
    """(N,) what a law of motion fitted to other episodes leaves unexplained of each step."""
    moved = (data.after - data.before)[:, data.continuous]
    usual = np.quantile(np.abs(moved), 0.9, axis=0)
    moved, usual = moved[:, usual > 1e-9], usual[usual > 1e-9]
    inputs = np.concatenate([data.before, data.action], axis=1)
    error = held_out_error(inputs, np.clip(moved / usual, -20, 20), data.folds())
    relative = error / np.maximum(np.quantile(error, 0.98, axis=0), 1e-4)
    return np.clip(relative, 0, 10).sum(1) / max(1, relative.shape[1])


def _arrivals_from_nowhere(
    data: Transitions, starts: np.ndarray, sizes: list[np.ndarray]
) -> np.ndarray:
    """(N,) bool: steps that arrive among the observations that steps `starts` leave, and come from elsewhere."""
    scale = data.scales()
    tree = cKDTree(data.before[starts] / scale)
    near = _NEAR * np.median(tree.query(tree.data, k=2)[0][:, 1])
    place = data.step[starts[0]]

    def distance(seen: np.ndarray, steps: np.ndarray) -> np.ndarray:
        (first, second), which = (part.T for part in tree.query(seen / scale, k=2))
        # An episode's own start is no sign that others begin there.
        own = (data.episode[starts][which[0]] == data.episode) & (steps == place)
        return np.where(own, second, first)

    arriving = distance(data.after, data.step + 1)
    near = min(near, float(np.quantile(arriving, _MAX_NEAR)))
    arrives, leaves = arriving <= near, distance(data.before, data.step) <= near
    distance_moved, surprise = sizes
    usual = [np.quantile(size[leaves | (data.step == place)], 0.99) for size in sizes]
    elsewhere = [np.quantile(np.append(size[~arrives], 0.0), 0.99) for size in sizes]
    bound = [
        max(_JUMP_NEAR_STARTS * u, _JUMP_ELSEWHERE * e)
        for u, e in zip(usual, elsewhere, strict=True)
    ]
    unlikely = (surprise > bound[1]) & (distance_moved > _AT_LEAST * usual[0])
    far = (distance_moved > bound[0]) | unlikely
    return arrives & ~leaves & far & ~_came_back(data)


def _came_back(data: Transitions) -> np.ndarray:
    """(N,) bool: steps back to where the episode was one step earlier; a wrong number does that, a reset does not."""
    earlier = np.concatenate([data.before[:1], data.before[:-1]])
    back, moved = (
        np.linalg.norm((data.after - seen) / data.scales(), axis=1)
        for seen in (earlier, data.before)
    )
    return (data.step > 0) & (back < 0.5 * moved)


def _carries_only_a_reset(data: Transitions, jumps: np.ndarray) -> bool:
    """Whether the jumps all have reward 0, more often than chance, or nearly all open an episode."""
    zero = data.reward == 0
    if not zero[jumps].mean() > 0.8:
        return False
    chance = max(zero.mean(), zero[_last(data)].mean())
    return bool((data.step[jumps] == 0).mean() > 0.8 or chance ** len(jumps) < _CHANCE)


def _look_like_ends(data: Transitions, marked: np.ndarray) -> bool:
    """Whether these arrivals (N,) bool can be told from those after which an episode went on.

    By a law of all ends that was fitted to other episodes: real deaths may show what a death looks like.
    """
    asked = data.terminated | ~_last(data)
    label = data.terminated[asked, None].astype(np.float64)
    score = held_out_prediction(data.after[asked], label, data.episode[asked] % FOLDS)[:, 0]
    ranks, ours, others = rankdata(score), marked[asked], label[:, 0] == 0
    ends, went_on = np.count_nonzero(ours), np.count_nonzero(others)
    if not went_on:
        return True
    # Pairs in which the end has the higher score; ends among themselves do not count.
    above = ranks[ours].sum() - rankdata(score[label[:, 0] > 0])[ours[label[:, 0] > 0]].sum()
    return bool(above > _SEPARATE * ends * went_on)


def _last(data: Transitions) -> np.ndarray:
    return np.append(data.step[1:] == 0, True)
