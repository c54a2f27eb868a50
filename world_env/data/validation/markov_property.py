"""Checks that observation and action of a step determine the next one: actions beside their step, hidden state."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from world_env.data.validation.issue import LintIssue, Severity
from world_env.data.validation.regression import (
    FOLDS,
    Transitions,
    cross_validated_error,
    cross_validated_prediction,
)

_MAX_STEPS = 5_000
"""Steps that these regressions use, from evenly spaced episodes."""
_MIN_STEPS = 200
_MIN_STEPS_PER_INPUT = 8
"""With fewer steps for each input of the regressions, their errors say nothing."""
_MAX_TARGETS = 24
"""Observation columns whose changes are predicted: those that change most often."""
_MIN_ACTION_RATIO = 1.25
"""Ratio of errors, in every fold, from which an action belongs to another step."""
_MIN_OWN_ERROR = 0.01
"""Error below which the action of the step itself explains a change: ratios of smaller errors are chance. Stacked
frames hold most of their next values."""
_MIN_INVERSE_RATIO = 1.25
"""Ratio by which the observation before an action must improve the prediction of that action."""
_MIN_SURPRISE_BEFORE, _MIN_SURPRISE_BESIDE = 0.7, 0.15
"""Shares of an action's deviation that the observations before and beside it must leave unexplained: else it may be
feedback."""
_MAX_OWN_ACTION_RATIO = 1.1
"""Ratio by which the action of the step itself may improve a prediction that knows the action of the step after."""
_MAX_OWN_EFFECT = 0.2
"""Correlation of the action of the step itself with a change, both without what the observation tells."""
_EXACT = 0.05
"""Error as a share of an action's deviation below which the action is a function of the observations."""
_MIN_SHARE_NEW = 0.3
"""Share of new Discrete actions from which all steps count: two of a few actions are often equal by chance, and of two
actions the new one is always the other one."""
_MIN_MEMORY_RATIO = 3.0
"""Ratio of errors, in every fold, from which the step before predicts what the observation does not."""
_MIN_UNEXPLAINED = 0.3
"""Share of the change of a column that the observation and the action must leave unexplained."""
_CLEAR_MEMORY_RATIO, _MIN_CLEARLY_UNEXPLAINED = 5.0, 0.1
"""The same two, where the step before explains almost everything."""
_ROUNDING = 1e-3
"""Errors below this share of a column's usual change count as zero."""


@dataclass(frozen=True)
class _Steps:
    """K steps with a step before and a step after in the same episode: rows of `data`, scaled changes, folds."""

    data: Transitions
    rows: np.ndarray
    changes: np.ndarray
    columns: np.ndarray
    folds: np.ndarray

    def error(self, *inputs: np.ndarray) -> np.ndarray:
        """Errors (K, D) of the scaled changes, predicted from the inputs (K, ...)."""
        return cross_validated_error(np.concatenate(inputs, 1), self.changes, self.folds)

    @functools.cached_property
    def error_with_memory(self) -> np.ndarray:
        """Errors (K, D) with the observation and the action of the step before as further inputs."""
        earlier = self.data.before[self.rows - 1]
        return self.error(self.before, self.action(0), earlier, self.action(-1))

    def action(self, lag: int) -> np.ndarray:
        """Action `lag` steps later, (K, A)."""
        return self.data.action[self.rows + lag]

    @property
    def before(self) -> np.ndarray:
        return self.data.before[self.rows]

    @property
    def after(self) -> np.ndarray:
        return self.data.after[self.rows]

    def smallest_ratio(self, larger: np.ndarray, smaller: np.ndarray) -> np.ndarray:
        """Smallest ratio over the folds of two mean errors, (D,)."""
        members = [self.folds == fold for fold in np.unique(self.folds)]
        ratios = [
            (larger[m].mean(0) + _ROUNDING) / (smaller[m].mean(0) + _ROUNDING) for m in members
        ]
        return np.min(ratios, axis=0)


def markov_property(data: Transitions) -> Iterator[LintIssue]:
    """Find actions that are recorded one step late or early, and observations that hide a part of the state.

    The change of the observation is predicted from the observation and the action of the step before, of the step
    itself, or of the step after, by regressions fitted to other episodes: the right action gives the smallest error.
    Where the observation and the action before explain clearly more, the state is hidden in part.
    """
    steps = _steps(data)
    if steps is None:
        return
    own = steps.error(steps.before, steps.action(0))
    shifts = list(_shifted_actions(steps, own))
    yield from shifts or _hidden_state(steps, own)


def _steps(data: Transitions) -> _Steps | None:
    first, last = data.step == 0, np.append(data.step[1:] == 0, True)
    every = -(-len(data) // _MAX_STEPS)
    rows = np.flatnonzero(~first & ~last & (data.episode % every == 0))
    inputs = 2 * (data.before.shape[1] + data.action.shape[1])
    if len(rows) < max(_MIN_STEPS, _MIN_STEPS_PER_INPUT * inputs):
        return None
    folds = data.folds()[rows]
    changes = (data.after - data.before)[rows]
    usual = np.maximum(np.quantile(np.abs(changes), 0.9, axis=0), changes.std(0))
    often = np.where(usual > 1e-9, (changes != 0).mean(0), 0.0)
    columns = np.sort(np.argsort(-often, kind="stable")[:_MAX_TARGETS])
    columns = columns[often[columns] > 0]
    if not len(columns) or len(np.unique(folds)) < 2:
        return None
    scaled = np.clip(changes[:, columns] / usual[columns], -20, 20)
    return _Steps(data, rows, scaled, columns, folds)


def _shifted_actions(steps: _Steps, own: np.ndarray) -> Iterator[LintIssue]:
    explained = own.mean(0) < _MIN_OWN_ERROR
    after = steps.error(steps.before, steps.action(1))
    ratios = np.where(explained, 0.0, steps.smallest_ratio(own, after))
    columns = int(np.count_nonzero(ratios > _MIN_ACTION_RATIO))
    severity = _evidence(steps, after, columns) if columns else None
    if severity is not None:
        doubt = ", or a controller reads the next observation" if severity == "warning" else ""
        yield LintIssue(
            "action_shift",
            severity,
            f"actions are recorded one step late{doubt}: with the action of the step after, the prediction error of "
            f"the next observation is {_ratio(own, after, ratios)} times smaller than with the action of the step "
            "itself. Shift them: action[t] is the action of the step from observation[t] to observation[t+1].",
            "action",
        )
        return
    before = steps.error(steps.before, steps.action(-1))
    ratios = np.where(explained, 0.0, steps.smallest_ratio(own, before))
    # The action before can also stand for a state that the observation hides: then it explains little by itself, and
    # the observation before explains more.
    column = int(np.argmax(ratios))
    if ratios[column] <= _MIN_ACTION_RATIO or not _explains(steps, before, column):
        return
    if steps.smallest_ratio(before, steps.error_with_memory)[column] < _MIN_MEMORY_RATIO:
        yield LintIssue(
            "action_shift",
            "warning",
            "actions are recorded one step early, or take effect one step late: with the action of the step before, "
            f"the prediction error of the next observation is {_ratio(own, before, ratios)} times smaller than with "
            "the action of the step itself. Shift them: action[t] is the action of the step from observation[t] to "
            "observation[t+1]. If the environment has a dead time, add the previous action to the observation, or fit "
            "with --family rssm.",
            "action",
        )


def _evidence(steps: _Steps, after: np.ndarray, columns: int) -> Severity | None:
    """How sure it is that the actions of the steps after cause the next observations, and do not react to them.

    A controller reads the next observation, so its next action tells that observation as well. An action is a cause
    if the action of the step itself adds nothing, with or without it, and if neither the observation before nor the
    observation beside the action predicts it, but the change between these two does. A controller with a derivative
    part on a noisy sensor does this too, but exactly, and for no more columns than it has actions: a warning.

    columns: number of columns that the actions of the steps after predict better.
    """
    joint = steps.error(steps.before, steps.action(1), steps.action(0))
    if after.mean() + _ROUNDING >= _MAX_OWN_ACTION_RATIO * (joint.mean() + _ROUNDING):
        return None
    # An action that is held says nothing; only a new one does.
    new = (steps.action(1) != steps.action(0)).any(1)
    if steps.data.one_hot_actions and new.mean() > _MIN_SHARE_NEW:
        new[:] = True
    if np.count_nonzero(new) < _MIN_STEPS // 2 or len(np.unique(steps.folds[new])) < FOLDS:
        return None
    steps = dataclasses.replace(
        steps, rows=steps.rows[new], changes=steps.changes[new], folds=steps.folds[new]
    )
    if _own_effect(steps) > _MAX_OWN_EFFECT:
        return None
    action = steps.action(1)
    spread = action.std(0)
    action = action[:, spread > 1e-9] / spread[spread > 1e-9]
    usual = np.abs(action - np.median(action, 0)).mean(0)
    chosen, beside, between = (
        cross_validated_error(np.concatenate([*inputs, steps.action(0)], 1), action, steps.folds)
        for inputs in ([steps.before], [steps.after], [steps.before, steps.after])
    )
    causes = steps.smallest_ratio(beside, between) > _MIN_INVERSE_RATIO
    causes &= chosen.mean(0) > _MIN_SURPRISE_BEFORE * usual
    causes &= beside.mean(0) > _MIN_SURPRISE_BESIDE * usual
    if not causes.any():
        return None
    exact = (between.mean(0) < _EXACT * usual).any() and not steps.data.one_hot_actions
    return "warning" if exact and columns <= action.shape[1] else "error"


def _own_effect(steps: _Steps) -> float:
    """Largest correlation of an action of the step itself with a change, both without what the observation tells.

    Discrete actions of two steps are often equal, so the action of the step after is taken away as well.
    """
    both, size = np.concatenate([steps.changes, steps.action(0)], 1), steps.changes.shape[1]
    rest = both - cross_validated_prediction(steps.before, both, steps.folds)
    spread = rest.std(0)
    if steps.data.one_hot_actions:
        told = np.concatenate([steps.before, steps.action(1)], 1)
        rest = both - cross_validated_prediction(told, both, steps.folds)
        # The changes stay relative to all that the observation does not tell: their rest may be rounding only.
        spread[size:] = rest[:, size:].std(0)
    rest = (rest - rest.mean(0)) / (spread + 1e-9)
    return float(np.abs(rest[:, :size].T @ rest[:, size:]).max() / len(rest))


def _explains(steps: _Steps, error: np.ndarray, column: int) -> bool:
    usual = np.abs(steps.changes[:, column] - np.median(steps.changes[:, column])).mean()
    return bool(error[:, column].mean() < 0.8 * usual)


def _hidden_state(steps: _Steps, own: np.ndarray) -> Iterator[LintIssue]:
    data = steps.data
    usual = np.abs(steps.changes - np.median(steps.changes, 0)).mean(0) + 1e-12
    # Where the regression is worse than a constant, the constant is the measure.
    unexplained = np.minimum(own.mean(0) / usual, 1.0)
    if not (unexplained > _MIN_CLEARLY_UNEXPLAINED).any():
        return
    memory = steps.error_with_memory
    ratios = steps.smallest_ratio(np.minimum(own, usual), memory)
    hidden = (ratios > _MIN_MEMORY_RATIO) & (unexplained > _MIN_UNEXPLAINED)
    hidden |= (ratios > _CLEAR_MEMORY_RATIO) & (unexplained > _MIN_CLEARLY_UNEXPLAINED)
    if hidden.any():
        worst = int(np.argmax(np.where(hidden, ratios, 0.0)))
        name = data.names[int(steps.columns[worst])]
        yield LintIssue(
            "hidden_state",
            "warning",
            "the observation does not contain the whole state (unobserved velocities, skipped frames): with the "
            f"observation and the action of the step before, the prediction error of {name} is "
            f"{ratios[worst]:.1f} times smaller. Fit with --family rssm, which also uses earlier observations, or add "
            "the missing values to the observation.",
            name,
        )


def _ratio(larger: np.ndarray, smaller: np.ndarray, ratios: np.ndarray) -> str:
    column = int(np.argmax(ratios))
    return f"{(larger[:, column].mean() + _ROUNDING) / (smaller[:, column].mean() + _ROUNDING):.1f}"
