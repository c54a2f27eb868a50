"""Whether rewards belong to the steps that they are written beside, and to nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from world_env.data.validation.issue import LintIssue
from world_env.data.validation.regression import Transitions, held_out_error

_LAGS = (-1, 0, 1)
_CLEARLY = 1.25
"""How many times as well another step must explain the rewards as their own does."""
_WITH_TIME = 1.15
"""The same for what explains them with the time as against without."""
_ROUNDING = 1e-4
"""Errors below this share of the rewards' deviation are none."""
_FEW_STEPS = 200
_FEW_EPISODES = 3
_RARE = 0.01


def shifted(data: Transitions) -> Iterator[LintIssue]:
    """Rewards written one step late or early.

    The step before, the step itself and the step after each explain the reward, by a law fitted to other episodes that
    sees what was left, done, arrived at, and whether it terminated; the right one explains it best. Rewards that were
    moved within each episode leave a 0 at one of its edges.
    """
    late, early = _filled_edges(data)
    if late or early:
        edge = "first reward of every" if late else "last reward of every truncated"
        yield _shift(late, f"the {edge} episode is 0, and hardly any other is")
        return
    if not _varies(data) or len(data) < _FEW_STEPS:
        return
    folds = data.folds()
    targets = np.stack([np.roll(data.reward, -lag) for lag in _LAGS], axis=1) / data.reward.std()
    errors = held_out_error(_seen(data), targets, folds, also=_flag(data)) + _ROUNDING
    mean = errors.mean(0)
    best = int(np.argmin(mean))
    by_fold = [errors[folds == fold].mean(0) for fold in np.unique(folds)]
    if mean[1] > _CLEARLY * mean[best] and all(part[best] < part[1] for part in by_fold):
        other = "before" if _LAGS[best] > 0 else "after"
        times = f"{mean[1] / mean[best]:.1f} times as well as its own"
        yield _shift(_LAGS[best] > 0, f"the step {other} explains a reward {times}")


def by_the_clock(data: Transitions) -> Iterator[LintIssue]:
    """Rewards that depend on how long the episode has lasted, which no state shows."""
    if not _varies(data) or len(data) < _FEW_STEPS or data.elapsed.max() == 0:
        return
    folds, flag, seen = data.folds(), _flag(data), _seen(data)
    target = data.reward[:, None] / data.reward.std()
    time = data.elapsed[:, None] / data.elapsed.max()
    clock = np.concatenate([time, time**2, np.exp(-5 * time)], axis=1)
    scaled = np.clip((seen - seen.mean(0)) / (seen.std(0) + 1e-9), -8, 8)
    timed = [flag, clock, scaled * time, scaled**2 * time, flag * clock]
    without = held_out_error(seen, target, folds, also=flag)[:, 0] + _ROUNDING
    with_it = (
        held_out_error(seen, target, folds, also=np.concatenate(timed, axis=1))[:, 0] + _ROUNDING
    )
    better = [
        without[folds == fold].mean() > with_it[folds == fold].mean() for fold in np.unique(folds)
    ]
    if without.mean() > _WITH_TIME * with_it.mean() and all(better):
        yield LintIssue(
            "reward_clock",
            "warning",
            f"rewards are explained {without.mean() / with_it.mean():.1f} times as well when the time since the start "
            "is known: a twin sees states only. Were they discounted when they were logged? Else put the time into "
            "the observation.",
            "reward",
        )


def _filled_edges(data: Transitions) -> tuple[bool, bool]:
    """(whether the first rewards were filled in with 0, whether the last ones were)."""
    zero = data.reward == 0
    last = np.append(data.step[1:] == 0, True)
    edges = []
    for edge, spared in (
        ((data.step == 0) & (data.elapsed == 0), last),
        (last & ~data.terminated, last),
    ):
        inside = zero[~edge & ~spared]
        filled = edge.sum() >= _FEW_EPISODES and zero[edge].all()
        edges.append(bool(filled and len(inside) and inside.mean() < _RARE))
    return edges[0], edges[1]


def _shift(late: bool, why: str) -> LintIssue:
    text = (
        f"rewards are written one step {'late' if late else 'early'}: {why}. reward[t] belongs to the step from "
        "observation[t] to observation[t+1]."
    )
    return LintIssue("reward_shift", "error", text, "reward")


def _varies(data: Transitions) -> bool:
    return bool(data.reward.std() > 1e-9 * np.abs(data.reward).max())


def _seen(data: Transitions) -> np.ndarray:
    return np.concatenate([data.before, data.action, data.after], axis=1)


def _flag(data: Transitions) -> np.ndarray:
    return data.terminated[:, None].astype(np.float64)
