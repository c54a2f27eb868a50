"""Checks of the rewards: shifted by one step, or dependent on the time since the reset."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from world_env.data.validation.issue import LintIssue
from world_env.data.validation.regression import Transitions, cross_validated_error

_LAGS = (-1, 0, 1)
_MIN_ERROR_RATIO = 1.25
"""Ratio of errors from which the rewards belong to another step: error of their own step to that of the other."""
_MIN_TIME_ERROR_RATIO = 1.15
"""Ratio of errors from which the rewards depend on the time: error without the time to the error with it."""
_ROUNDING = 1e-4
"""Errors below this share of the standard deviation of the rewards count as zero."""
_MIN_STEPS, _MIN_STEPS_PER_INPUT = 200, 5
_MAX_INPUTS_FOR_TIMED_SQUARES = 100
_MIN_EPISODES = 3
_MAX_SHARE_OF_ZEROS = 0.01
"""Share of zeros among the other rewards above which zeros at the edges of the episodes are not unusual."""


def reward_alignment(data: Transitions) -> Iterator[LintIssue]:
    """Find rewards that are recorded one step late or early, or that depend on the time since the reset.

    The reward is predicted from the step itself, the step before and the step after (observation, action, next
    observation, termination), by regressions fitted to other episodes: the right step gives the smallest error. A shift
    within each episode leaves a 0 at its first or last step.
    """
    late, early = _filled_edges(data)
    if late or early:
        edge = "first reward of every" if late else "last reward of every truncated"
        yield _shift(late, f"the {edge} episode is 0, almost all others are not")
        return
    features = _features(data)
    if not _varies(data) or len(data) < max(_MIN_STEPS, _MIN_STEPS_PER_INPUT * features.shape[1]):
        return
    folds = data.folds()
    targets = np.stack([np.roll(data.reward, -lag) for lag in _LAGS], axis=1) / data.reward.std()
    errors = cross_validated_error(features, targets, folds, also=_terminated(data)) + _ROUNDING
    mean = errors.mean(0)
    best = int(np.argmin(mean))
    by_fold = [errors[folds == fold].mean(0) for fold in np.unique(folds)]
    if mean[1] > _MIN_ERROR_RATIO * mean[best] and all(part[best] < part[1] for part in by_fold):
        other = "before" if _LAGS[best] > 0 else "after"
        times = f"{mean[1] / mean[best]:.1f} times smaller"
        why = (
            f"predicted from the step {other}, a reward has a {times} error than from its own step"
        )
        yield _shift(_LAGS[best] > 0, why)
    else:
        yield from _time_dependent(data, features, errors[:, 1])


def _time_dependent(
    data: Transitions, features: np.ndarray, without: np.ndarray
) -> Iterator[LintIssue]:
    """Find rewards that depend on the time since the reset, which the observation does not contain.

    without: errors (N,) of the rewards that are predicted without the time.
    """
    if data.elapsed.max() == 0:
        return
    folds, terminated = data.folds(), _terminated(data)
    target = data.reward[:, None] / data.reward.std()
    time = data.elapsed[:, None] / data.elapsed.max()
    clock = np.concatenate([time, time**2, np.exp(-5 * time)], axis=1)
    scaled = np.clip((features - features.mean(0)) / (features.std(0) + 1e-9), -8, 8)
    timed = [terminated, clock, scaled * time, terminated * clock]
    if features.shape[1] <= _MAX_INPUTS_FOR_TIMED_SQUARES:
        timed.append(scaled**2 * time)
    also = np.concatenate(timed, axis=1)
    with_time = cross_validated_error(features, target, folds, also=also)[:, 0] + _ROUNDING
    better = [
        without[folds == fold].mean() > with_time[folds == fold].mean() for fold in np.unique(folds)
    ]
    if without.mean() > _MIN_TIME_ERROR_RATIO * with_time.mean() and all(better):
        yield LintIssue(
            "reward_clock",
            "warning",
            "rewards depend on the time since the reset, which the observation does not contain: with the time, the "
            f"prediction error of the rewards is {without.mean() / with_time.mean():.1f} times smaller. Record the "
            "rewards without discount, or add the time to the observation.",
            "reward",
        )


def _filled_edges(data: Transitions) -> tuple[bool, bool]:
    """(whether the first rewards of the episodes are filled with 0, whether the last ones are)."""
    zero = data.reward == 0
    last = np.append(data.step[1:] == 0, True)
    edges = []
    for edge, excluded in (
        ((data.step == 0) & (data.elapsed == 0), last),
        (last & ~data.terminated, last),
    ):
        inside = zero[~edge & ~excluded]
        filled = edge.sum() >= _MIN_EPISODES and zero[edge].all()
        edges.append(bool(filled and len(inside) and inside.mean() < _MAX_SHARE_OF_ZEROS))
    return edges[0], edges[1]


def _shift(late: bool, why: str) -> LintIssue:
    text = (
        f"rewards are recorded one step {'late' if late else 'early'}: {why}. Shift them: reward[t] is the reward of "
        "the step from observation[t] to observation[t+1]."
    )
    return LintIssue("reward_shift", "error", text, "reward")


def _varies(data: Transitions) -> bool:
    return bool(data.reward.std() > 1e-9 * np.abs(data.reward).max())


def _features(data: Transitions) -> np.ndarray:
    return np.concatenate([data.before, data.action, data.after], axis=1)


def _terminated(data: Transitions) -> np.ndarray:
    return data.terminated[:, None].astype(np.float64)
