"""Checks of the ends of episodes: time limits marked as terminations, ends by chance, truncations by the state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from scipy.stats import rankdata

from world_env.data.episode import Episode
from world_env.data.validation.issue import LintIssue, number_of
from world_env.data.validation.regression import (
    FOLDS,
    Transitions,
    column_count,
    cross_validated_prediction,
    to_transitions,
)
from world_env.spec import WorldSpec

_MIN_STARTS = 3
_MIN_SEPARATION = 0.9
"""Probability that a termination has a higher score than another step, from which terminations are real."""
_MIN_PILE, _MIN_PILE_RATIO, _PILE_WINDOW = 5, 5, 5
"""Terminations at one length, their ratio to the mean at the lengths around it, and how many lengths on either side: a
pile of terminations is a time limit, unless they follow from the state."""
_MIN_PILED_LENGTH = 3
_MIN_ENDS = 20
"""Terminations from which ends by chance can be told from rare ones."""
_MIN_UNTOLD = 0.2
"""Share of the terminations with a score below the median of other steps, from which ends are by chance."""
_MIN_TRUNCATIONS = 5
_MIN_TRUNCATION_SEPARATION = 0.95
"""Separation from which truncations follow from the state."""
_CONTINUED = 0.95
"""Quantile of the scores of steps after which an episode continued, above which a truncation follows from the state."""
_MAX_SAME_LENGTH = 0.5
"""Share of the truncations at one length from which this length is a time limit."""


def time_limits(
    data: Transitions, episodes: Mapping[int, Episode], spec: WorldSpec
) -> Iterator[LintIssue]:
    """Find episodes marked as terminated at exactly a time limit, in states after which others continue.

    A time limit is that of the spec, or a length at which terminations pile up.
    """
    totals = {number: e.elapsed + len(e) for number, e in episodes.items()}
    ended = {number: totals[number] for number, e in episodes.items() if e.terminated}
    known = spec.horizon or max(totals.values())
    found: dict[int, list[int]] = {}
    for limit in sorted({known, *_piles(list(ended.values()))}):
        marked = [number for number, total in ended.items() if total == limit]
        if len(marked) < (1 if limit == spec.horizon else _MIN_STARTS):
            continue
        places = np.isin(data.numbers[data.episode], marked) & _last(data)
        if _separation(data, data.after, data.terminated, places) <= _MIN_SEPARATION:
            found[limit] = marked
    if found:
        marked = sorted(number for numbers in found.values() for number in numbers)
        yield LintIssue(
            "time_limit",
            "error" if len(marked) > 1 else "warning",
            f"the time limit is marked as a termination in {len(marked)} of {number_of(len(episodes), 'episode')}: "
            f"after exactly {' or '.join(map(str, found))} steps, in states after which other episodes continue. Mark "
            "these episodes as truncated, or a twin learns terminations without a cause.",
            f"episode {marked[0]}",
        )


def chance_ends(data: Transitions) -> Iterator[LintIssue]:
    """Find terminations that neither the observation nor the action predicts."""
    total = int(np.count_nonzero(data.terminated))
    if total < _MIN_ENDS:
        return
    whole = np.concatenate([data.before, data.action, data.after], axis=1)
    untold = 1.0
    for inputs in (data.after, whole):
        score, considered = _scores(data, inputs, data.terminated)
        ended = data.terminated[considered]
        if not ended.all():
            # Half of the ends by chance have a score below the median.
            untold = min(untold, float((score[ended] <= np.median(score[~ended])).mean()))
        if ended.all() or untold <= _MIN_UNTOLD:
            return
    yield LintIssue(
        "chance_ends",
        "warning",
        f"about {min(1.0, 2 * untold):.0%} of {number_of(total, 'termination')} are predicted neither by the "
        "observation nor by the action: episodes end by chance, or the cause is not observed. A twin can only sample "
        'such ends with their probability (termination="sample"). If there is a cause, add it to the observation.',
    )


def state_truncations(
    data: Transitions, episodes: Mapping[int, Episode], spec: WorldSpec
) -> Iterator[LintIssue]:
    """Find truncations before the time limit that follow from the state, such as leaving an arena."""
    cut = early_truncations(episodes, spec)
    if len(cut) < _MIN_TRUNCATIONS:
        return
    places = np.isin(data.numbers[data.episode], cut) & _last(data)
    if _separation(data, data.after, places, places) < _MIN_TRUNCATION_SEPARATION:
        return
    yield LintIssue(
        "state_truncation",
        "warning",
        f"{len(cut)} of {number_of(len(episodes), 'episode')} are truncated before the time limit, in states after "
        "which no other episode continues: a twin does not learn these ends, and its episodes are longer. If they are "
        "ends of the task, such as leaving an arena, fit with `--truncations ends` (refine: `--fit.truncations ends`), "
        "or mark them as terminated.",
        f"episode {cut[0]}",
    )


def own_time_limit(episodes: Mapping[int, Episode], spec: WorldSpec) -> Iterator[LintIssue]:
    """Find a time limit that is shorter than that of the spec: an environment may have one in its own code."""
    totals = [e.elapsed + len(e) for e in episodes.values()]
    longest = max(totals)
    if spec.horizon is None or longest >= spec.horizon:
        return
    cut = [e.truncated and not e.terminated for e in episodes.values()]
    at_limit = sum(total == longest and is_cut for total, is_cut in zip(totals, cut, strict=True))
    if at_limit >= _MIN_TRUNCATIONS and at_limit > _MAX_SAME_LENGTH * sum(cut):
        yield LintIssue(
            "own_time_limit",
            "warning",
            f"{at_limit} of {number_of(sum(cut), 'truncated episode')} have exactly {longest} steps and none is "
            f"longer, but the time limit is {spec.horizon} steps: a twin does not learn truncations, and its episodes "
            f"are longer. If the environment truncates after {longest} steps, pass --horizon {longest}.",
        )


def told_truncations(episodes: Mapping[int, Episode], spec: WorldSpec) -> list[int]:
    """Numbers of the episodes whose truncation, before a time limit, follows from the state.

    Of images, and of fewer than 5 such episodes, all truncations before a time limit.
    """
    cut = early_truncations(episodes, spec)
    if len(cut) < _MIN_TRUNCATIONS or not column_count(spec):
        return cut
    data = to_transitions(episodes, spec)
    places = np.isin(data.numbers[data.episode], cut) & _last(data)
    score, considered = _scores(data, data.after, places)
    bound = np.quantile(score[~places[considered]], _CONTINUED, axis=0)
    told = data.episode[considered][places[considered] & (score > bound)]
    return data.numbers[told].tolist()  # type: ignore[no-any-return]


def early_truncations(episodes: Mapping[int, Episode], spec: WorldSpec) -> list[int]:
    """Numbers of the episodes that are truncated before a time limit.

    A time limit is that of the spec, or a length that most truncated episodes have.
    """
    totals = {
        n: e.elapsed + len(e) for n, e in episodes.items() if e.truncated and not e.terminated
    }
    if not totals:
        return []
    lengths, counts = np.unique(list(totals.values()), return_counts=True)
    often = lengths[counts > _MAX_SAME_LENGTH * len(totals)].tolist()
    limits = {*often, spec.horizon} if len(totals) > 1 else {spec.horizon}
    return [number for number, total in totals.items() if total not in limits]


def constant_reward(episodes: Mapping[int, Episode]) -> Iterator[LintIssue]:
    """Find data with one and the same reward, in which no episode terminates: there is nothing to optimise."""
    rewards = np.concatenate([episode.rewards for episode in episodes.values()])
    if not np.ptp(rewards) and not any(episode.terminated for episode in episodes.values()):
        yield LintIssue(
            "constant_reward",
            "warning",
            f"all rewards are {rewards[0]:.4g} and no episode terminates, so all policies have the same return. "
            "Collect data that reach another reward or an end, or give a reward function (reward_fn).",
            "reward",
        )


def _piles(lengths: list[int]) -> list[int]:
    """Lengths at which far more episodes terminated than at the lengths around them."""
    counts = np.bincount(lengths, minlength=1)
    found = []
    for length in np.flatnonzero(counts >= _MIN_PILE).tolist():
        around = counts[max(0, length - _PILE_WINDOW) : length + _PILE_WINDOW + 1]
        mean = (around.sum() - counts[length]) / (2 * _PILE_WINDOW)
        if length >= _MIN_PILED_LENGTH and counts[length] > _MIN_PILE_RATIO * (1 + mean):
            found.append(length)
    return found


def _separation(
    data: Transitions, inputs: np.ndarray, labels: np.ndarray, marked: np.ndarray
) -> float:
    """Probability that a marked step has a higher score than a step after which an episode continued; 1: none did.

    inputs: (N, D). labels, marked: (N,) bool; all marked steps have the label.
    """
    score, considered = _scores(data, inputs, labels)
    ranks, ours, label = rankdata(score), marked[considered], labels[considered]
    ends, continued = np.count_nonzero(ours), np.count_nonzero(~label)
    if not continued:
        return 1.0
    # Pairs in which the marked step has the higher score; pairs of two labels do not count.
    above = ranks[ours].sum() - rankdata(score[label])[ours[label]].sum()
    return float(above / (ends * continued))


def _scores(
    data: Transitions, inputs: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(score of each considered step, which of the N steps they are).

    The score is the probability of the label, from a regression on all labels of other episodes. Last steps of
    episodes without the label are left out: whether they would continue is unknown.
    """
    considered = labels | ~_last(data)
    label = labels[considered, None].astype(np.float64)
    folds = data.episode[considered] % FOLDS
    return cross_validated_prediction(inputs[considered], label, folds)[:, 0], considered


def _last(data: Transitions) -> np.ndarray:
    return np.append(data.step[1:] == 0, True)
