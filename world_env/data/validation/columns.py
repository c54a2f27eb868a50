"""What is wrong with single columns: no numbers, values outside their space, actions that were never tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from gymnasium import spaces

from world_env.data.episode import Episode
from world_env.data.recording import Recording
from world_env.data.statistics import column_traits
from world_env.data.validation.issue import LintIssue
from world_env.data.validation.regression import Transitions, discrete_sizes, vector_spaces
from world_env.spaces import observation_spaces
from world_env.spec import WorldSpec
from world_env.types import OBSERVATION

_ROUNDING = 1e-5
"""Share of a bound (or of 1) by which real environments overstep it in float32."""
_SOME = 0.05
"""Share of observations outside up to which it may be the real environment's own doing: some of Gymnasium's do it."""
_LITTLE_OF_A_BOX = 0.2
"""Share of an action's range between the 1 % and the 99 % quantile below which the rest is unknown ground."""
_FEW_EPISODES = 3


def usable(
    episodes: Mapping[int, Episode], spec: WorldSpec
) -> tuple[dict[int, Episode], list[LintIssue]]:
    """(the episodes that further checks can read, what is wrong with the others)."""
    good: dict[int, Episode] = {}
    bad: dict[tuple[str, str], list[int]] = {}
    for number, episode in episodes.items():
        problem = _shape_problem(episode, spec) or _kind_problem(episode, spec)
        if problem is None and _is_finite(episode):
            good[number] = episode
        elif problem is not None:
            bad.setdefault(problem, []).append(number)
    found = [
        LintIssue(check, "error", f"{len(numbers)} episodes: {text}", f"episode {numbers[0]}")
        for (check, text), numbers in bad.items()
    ]
    wrong = {number for numbers in bad.values() for number in numbers}
    readable = {number: episode for number, episode in episodes.items() if number not in wrong}
    return good, found + list(_non_finite(readable)) + list(_early_ends(readable))


def outside(episodes: Mapping[int, Episode], spec: WorldSpec) -> Iterator[LintIssue]:
    """Values of Box spaces beyond their bounds."""
    parts = observation_spaces(spec.observation_space)
    boxes = {key: (space, [e.observation_columns()[key] for e in episodes.values()])
             for key, space in parts.items()}  # fmt: skip
    boxes["action"] = (spec.action_space, [episode.actions for episode in episodes.values()])
    for key, (space, columns) in boxes.items():
        if not isinstance(space, spaces.Box) or space.dtype == np.uint8:
            continue
        low, high = (bound.reshape(-1).astype(np.float64) for bound in (space.low, space.high))
        slack = [
            _ROUNDING * np.maximum(1.0, np.abs(np.where(np.isfinite(b), b, 0.0)))
            for b in (low, high)
        ]
        values = np.concatenate([column.reshape(len(column), -1) for column in columns])
        over = (values < low - slack[0]) | (values > high + slack[1])
        for i in np.flatnonzero(over.any(0)):
            worst = values[over[:, i], i]
            far = worst[np.argmax(np.maximum(low[i] - worst, worst - high[i]))]
            share = over[:, i].mean()
            does = (
                "real environments clip them, and so does a twin: record what was done"
                if key == "action"
                else "a twin never leaves its space: repair the space, or the units"
            )
            yield LintIssue(
                "space",
                "error" if share > _SOME and key != "action" else "warning",
                f"{share:.2%} of the values lie outside [{low[i]:.4g}, {high[i]:.4g}], the farthest is "
                f"{far:.4g}; {does}",
                _name(key, int(i), values.shape[1]),
            )


def still_or_spiking(data: Transitions, spec: WorldSpec) -> Iterator[LintIssue]:
    """Columns that never change, and columns that nearly never do."""
    seen = np.concatenate([data.before, data.after])
    names = [
        _name(key, i, int(np.prod(space.shape)))
        for key, space in vector_spaces(spec).items()
        if isinstance(space, spaces.Box)
        for i in range(int(np.prod(space.shape)))
    ]
    usual = data.reward[~data.terminated]
    columns = dict(zip(names, seen[:, data.continuous].T[:, :, None], strict=True))
    columns["reward"] = (usual if len(usual) else data.reward)[:, None]
    for kind, name, text in column_traits(columns):
        yield LintIssue(kind, "note", text, name)


def actions_tried(data: Transitions, spec: WorldSpec) -> Iterator[LintIssue]:
    """Actions that the data says nothing of."""
    space = spec.action_space
    if isinstance(space, spaces.Box):
        yield from _box_actions(data, space)
    else:
        yield from _discrete_actions(data, space)
    changes = (data.action[1:] != data.action[:-1]).any(1) & (data.step[1:] > 0)
    moves = np.bincount(data.episode[1:], changes, minlength=len(data.numbers))
    long = np.bincount(data.episode) > 1
    if long.sum() >= _FEW_EPISODES and not moves[long].any():
        yield LintIssue(
            "actions",
            "warning",
            "every episode holds one action from its first step to its last: what a change of action does was never "
            "seen. Collect with actions that vary within an episode.",
        )


def _box_actions(data: Transitions, space: spaces.Box) -> Iterator[LintIssue]:
    low, high = (bound.reshape(-1).astype(np.float64) for bound in (space.low, space.high))
    from_, to = np.quantile(data.action, [0.01, 0.99], axis=0)
    for i in range(len(low)):
        name = _name("action", i, len(low))
        if np.ptp(data.action[:, i]) == 0:
            text = f"it is always {data.action[0, i]:.4g}: a twin cannot know what other values do"
            yield LintIssue("actions", "warning", text, name)
        elif np.isfinite(high[i] - low[i]) and to[i] - from_[i] < _LITTLE_OF_A_BOX * (
            high[i] - low[i]
        ):
            text = (
                f"98 % of its values lie in [{from_[i]:.3g}, {to[i]:.3g}] of [{low[i]:.3g}, {high[i]:.3g}]: a policy "
                "trained in a twin will go where nothing is known"
            )
            yield LintIssue("actions", "warning", text, name)


def _discrete_actions(data: Transitions, space: spaces.Space) -> Iterator[LintIssue]:
    counts, first = data.action.sum(0), 0
    sizes, starts = discrete_sizes(space)
    for part, (size, start) in enumerate(zip(sizes, starts, strict=True)):
        unused = np.flatnonzero(counts[first : first + size] == 0) + start
        if len(unused):
            yield LintIssue(
                "actions",
                "warning",
                f"{len(unused)} of {size} actions were never taken ({', '.join(map(str, unused[:8]))}): a twin cannot "
                "know what they do",
                _name("action", part, len(sizes)),
            )
        first += size


def _name(key: str, index: int, size: int) -> str:
    return key if size == 1 else f"{key}[{index}]"


def _shape_problem(episode: Episode, spec: WorldSpec) -> tuple[str, str] | None:
    parts = observation_spaces(spec.observation_space)
    seen = episode.observation_columns()
    if set(seen) != set(parts):
        return "shape", f"observations have the parts {sorted(seen)}, the spaces {sorted(parts)}"
    steps = len(episode.actions) if np.ndim(episode.actions) else 0
    if steps == 0:
        return "shape", "there is no step"
    columns = {key: (seen[key], steps + 1, space.shape or ()) for key, space in parts.items()}
    columns["action"] = (episode.actions, steps, spec.action_space.shape or ())
    columns["reward"] = (episode.rewards, steps, ())
    for name, (column, rows, shape) in columns.items():
        kind = np.asarray(column).dtype
        if not (np.issubdtype(kind, np.number) or kind.kind == "b"):
            return "shape", f"{name} holds {kind}, which are no numbers"
        if column.shape[1:] != shape:
            return "shape", f"entries of {name} have the shape {column.shape[1:]}, expected {shape}"
        if len(column) != rows:
            more = len(column) - rows
            return (
                "shape",
                f"{name} has {more:+d} entries for its actions: observations are one more, rewards as many",
            )
    return None


def _kind_problem(episode: Episode, spec: WorldSpec) -> tuple[str, str] | None:
    """Values that a Discrete space does not have: they cannot even be encoded."""
    seen = episode.observation_columns()
    columns = {key: (seen[key], space)
               for key, space in observation_spaces(spec.observation_space).items()}  # fmt: skip
    for name, (values, space) in (
        columns | {"action": (episode.actions, spec.action_space)}
    ).items():
        if isinstance(space, spaces.Box):
            continue
        sizes, starts = discrete_sizes(space)
        flat = values.reshape(len(values), -1) - starts
        wrong = (flat < 0) | (flat >= sizes) | (flat != np.floor(flat))
        if wrong.any():
            return "space", f"{name} takes values that {space} does not have"
    return None


def _is_finite(episode: Episode) -> bool:
    return all(np.isfinite(column).all() for column in episode.columns().values())


def _non_finite(episodes: Mapping[int, Episode]) -> Iterator[LintIssue]:
    counts: dict[str, int] = {}
    places: dict[str, str] = {}
    for number, episode in episodes.items():
        for key, column in episode.columns().items():
            flat = column.reshape(len(column), -1)
            for row, i in np.argwhere(~np.isfinite(flat)):
                name = _name(key.removeprefix(f"{OBSERVATION}."), int(i), flat.shape[1])
                counts[name] = counts.get(name, 0) + 1
                places.setdefault(name, f"first in episode {number}, entry {row}")
    for name, count in counts.items():
        text = (
            f"{count} values are no finite numbers, {places[name]}: a fit refuses such episodes, drop or repair "
            "them. They were left out of the checks below."
        )
        yield LintIssue("finite", "error", text, name)


def _early_ends(episodes: Mapping[int, Episode]) -> Iterator[LintIssue]:
    early = {
        number: episode.early_end
        for number, episode in episodes.items()
        if isinstance(episode, Recording) and episode.early_end is not None
    }
    if early:
        number, step = next(iter(early.items()))
        yield LintIssue(
            "early_end",
            "error",
            f"{len(early)} episodes go on after a step that ended them: cut them there, a twin would learn the reset "
            "as a movement",
            f"episode {number}, step {step}",
        )
