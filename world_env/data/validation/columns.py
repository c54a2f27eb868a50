"""Checks of single columns: NaN or infinite values, values outside their space, constant columns, unused actions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from gymnasium import spaces

from world_env.data.episode import Episode
from world_env.data.float32_offsets import are_large
from world_env.data.recording import Recording
from world_env.data.statistics import column_name, column_traits, counted
from world_env.data.validation.issue import LintIssue, Severity, number_of
from world_env.data.validation.regression import Transitions, vector_spaces
from world_env.spaces import categories, is_image, observation_spaces
from world_env.spec import WorldSpec
from world_env.types import OBSERVATION

_ROUNDING = 1e-5
"""Share of a bound (or of 1) by which float32 observations of real environments exceed it."""
_MAX_SHARE_OUTSIDE = 0.05
"""Share of observations out of bounds up to which the real environment may be the cause: some of Gymnasium's are."""
_MIN_SHARE_OF_RANGE = 0.2
"""Share of an action's range between its 1 % and 99 % quantiles, below which the coverage is too small."""
_MIN_EPISODES = 3
_ACTIONS_SHOWN = 8
"""Unused actions that a message lists."""


def usable_episodes(
    episodes: Mapping[int, Episode], spec: WorldSpec
) -> tuple[dict[int, Episode], list[LintIssue]]:
    """Separate the episodes that further checks can read; return them and the issues of the others."""
    good: dict[int, Episode] = {}
    bad: dict[tuple[str, str], dict[int, str]] = {}
    for number, episode in episodes.items():
        problem = _shape_problem(episode, spec) or _value_problem(episode, spec)
        if problem is None and _is_finite(episode):
            good[number] = episode
        elif problem is not None:
            check, kind, text = problem
            bad.setdefault((check, kind), {})[number] = text
    issues = [_unusable(check, texts, len(episodes)) for (check, _), texts in bad.items()]
    wrong = {number for texts in bad.values() for number in texts}
    readable = {number: episode for number, episode in episodes.items() if number not in wrong}
    return good, issues + list(_non_finite(readable)) + list(_early_ends(readable))


def _unusable(check: str, texts: Mapping[int, str], total: int) -> LintIssue:
    first, text = next(iter(texts.items()))
    names = [f"episode {number}" for number in texts]
    many = counted(
        names, total, "does not fit the spaces", "do not fit the spaces", noun="episodes"
    )
    message = f"{many}: {text}. Repair or remove {'it' if len(names) == 1 else 'them'}."
    return LintIssue(check, "error", message, f"episode {first}")


def out_of_bounds(episodes: Mapping[int, Episode], spec: WorldSpec) -> Iterator[LintIssue]:
    """Find values of Box spaces beyond their bounds."""
    columns_of = [
        (key, space, [e.observation_columns()[key] for e in episodes.values()], False)
        for key, space in observation_spaces(spec.observation_space).items()
    ]
    actions = [episode.actions for episode in episodes.values()]
    found: dict[tuple[bool, Severity], dict[str, str]] = {}
    totals = {True: 0, False: 0}
    for key, space, columns, is_action in [
        *columns_of,
        ("action", spec.action_space, actions, True),
    ]:
        if not isinstance(space, spaces.Box) or is_image(space):
            continue
        low, high = (bound.reshape(-1).astype(np.float64) for bound in (space.low, space.high))
        slack = [
            _ROUNDING * np.maximum(1.0, np.abs(np.where(np.isfinite(b), b, 0.0)))
            for b in (low, high)
        ]
        values = np.concatenate([column.reshape(len(column), -1) for column in columns])
        over = (values < low - slack[0]) | (values > high + slack[1])
        totals[is_action] += values.shape[1]
        for i in np.flatnonzero(over.any(0)).tolist():
            worst = values[over[:, i], i]
            far = worst[np.argmax(np.maximum(low[i] - worst, worst - high[i]))]
            share = over[:, i].mean()
            severe = share > _MAX_SHARE_OUTSIDE and not is_action
            text = (
                f"{share:.2%} of the values are outside [{low[i]:.4g}, {high[i]:.4g}], the farthest is "
                f"{far:.4g}"
            )
            name = column_name(key, i, values.shape[1])
            found.setdefault((is_action, "error" if severe else "warning"), {})[name] = text
    for (is_action, severity), texts in found.items():
        do = (
            "Real environments and twins clip actions: record the clipped actions."
            if is_action
            else "The observations of a twin never leave their space: correct the bounds of the space, or the units of "
            "the data."
        )
        message = _of_columns(
            texts, totals[is_action], "has values out of bounds", "have values out of bounds"
        )
        yield LintIssue("space", severity, f"{message}. {do}", next(iter(texts)))


def constant_or_spiking(data: Transitions, spec: WorldSpec) -> Iterator[LintIssue]:
    """Find constant columns, and columns with rare outliers."""
    values = np.concatenate([data.before, data.after])[:, data.continuous]
    columns, end = {}, 0
    for key, space in vector_spaces(spec).items():
        if isinstance(space, spaces.Box):
            start, end = end, end + int(np.prod(space.shape))
            columns[key] = values[:, start:end]
            if space.dtype != np.float32:
                columns[key] = _centred(columns[key])
    for trait in column_traits(columns, data.reward, data.terminated):
        yield LintIssue(trait.kind, "note", trait.text, trait.first)


def _centred(values: np.ndarray) -> np.ndarray:
    """Centre large float64 values (N, D) that move: they would count as constant."""
    low, high = values.min(0), values.max(0)
    large = are_large(np.maximum(np.abs(low), np.abs(high)), high - low)
    return values - np.where(large, (low + high) / 2.0, 0.0)


def action_coverage(data: Transitions, spec: WorldSpec) -> Iterator[LintIssue]:
    """Find actions that the data does not cover."""
    space = spec.action_space
    if isinstance(space, spaces.Box):
        yield from _box_actions(data, space)
    else:
        yield from _discrete_actions(data, space)
    changes = (data.action[1:] != data.action[:-1]).any(1) & (data.step[1:] > 0)
    moves = np.bincount(data.episode[1:], changes, minlength=len(data.numbers))
    long = np.bincount(data.episode) > 1
    if long.sum() >= _MIN_EPISODES and not moves[long].any():
        yield LintIssue(
            "actions",
            "warning",
            "the action never changes within an episode: a twin cannot learn the effect of a change. Collect episodes "
            "with varying actions.",
        )


def _box_actions(data: Transitions, space: spaces.Box) -> Iterator[LintIssue]:
    low, high = (bound.reshape(-1).astype(np.float64) for bound in (space.low, space.high))
    start, end = np.quantile(data.action, [0.01, 0.99], axis=0)
    constant: dict[str, str] = {}
    narrow: dict[str, str] = {}
    for i in range(len(low)):
        name = column_name("action", i, len(low))
        if np.ptp(data.action[:, i]) == 0:
            constant[name] = f"the value is always {data.action[0, i]:.4g}"
        elif np.isfinite(high[i] - low[i]) and end[i] - start[i] < _MIN_SHARE_OF_RANGE * (
            high[i] - low[i]
        ):
            narrow[name] = (
                f"98 % of the values are in [{start[i]:.3g}, {end[i]:.3g}] of [{low[i]:.3g}, {high[i]:.3g}]"
            )
    if constant:
        text = _of_columns(constant, len(low), "is constant", "are constant")
        do = "A twin cannot learn the effect of other values: collect episodes with varied actions."
        yield LintIssue("actions", "warning", f"{text}. {do}", next(iter(constant)))
    if narrow:
        text = _of_columns(
            narrow, len(low), "covers little of its range", "cover little of their range"
        )
        do = (
            "A policy that is trained in a twin will use actions outside the data: collect episodes with a wider range "
            "of actions."
        )
        yield LintIssue("actions", "warning", f"{text}. {do}", next(iter(narrow)))


def _discrete_actions(data: Transitions, space: spaces.Space) -> Iterator[LintIssue]:
    counts, first = data.action.sum(0), 0
    sizes, starts = categories(space)
    texts: dict[str, str] = {}
    for part, (size, start) in enumerate(zip(sizes, starts, strict=True)):
        unused = np.flatnonzero(counts[first : first + size] == 0) + start
        if len(unused):
            shown = ", ".join(map(str, unused[:_ACTIONS_SHOWN]))
            more = ", ..." if len(unused) > _ACTIONS_SHOWN else ""
            name = column_name("action", part, len(sizes))
            texts[name] = f"{len(unused)} of {size} values were never taken ({shown}{more})"
        first += size
    if texts:
        text = _of_columns(texts, len(sizes), "has unused values", "have unused values")
        do = "A twin cannot learn their effect: collect episodes with all actions."
        yield LintIssue("actions", "warning", f"{text}. {do}", next(iter(texts)))


def _of_columns(texts: Mapping[str, str], total: int, singular: str, plural: str) -> str:
    """One sentence about all columns (name -> detail), with the detail of the first one."""
    first, detail = next(iter(texts.items()))
    subject = counted(list(texts), total, singular, plural)
    return f"{subject}: {detail if len(texts) == 1 else f'for {first}, {detail}'}"


def _shape_problem(episode: Episode, spec: WorldSpec) -> tuple[str, str, str] | None:
    """(check, kind of problem, text) of an episode whose columns do not fit the spaces."""
    parts = observation_spaces(spec.observation_space)
    columns = episode.observation_columns()
    if set(columns) != set(parts):
        text = f"the observations have the keys {sorted(columns)}, expected {sorted(parts)}"
        return "shape", "keys", text
    steps = len(episode.actions) if np.ndim(episode.actions) else 0
    if steps == 0:
        return "shape", "steps", "there are no steps, expected at least 1"
    expected = {key: (columns[key], steps + 1, space.shape or ()) for key, space in parts.items()}
    expected["action"] = (episode.actions, steps, spec.action_space.shape or ())
    expected["reward"] = (episode.rewards, steps, ())
    for name, (column, rows, shape) in expected.items():
        kind = np.asarray(column).dtype
        if not (np.issubdtype(kind, np.number) or kind.kind == "b"):
            return "shape", f"dtype of {name}", f"{name} has dtype {kind}, expected numbers"
        if column.shape[1:] != shape:
            text = f"entries of {name} have shape {column.shape[1:]}, expected {shape}"
            return "shape", f"shape of {name}", text
        if len(column) != rows:
            text = f"{name} has {len(column)} entries, expected {rows} for {steps} actions"
            return "shape", f"length of {name}", text
    return None


def _value_problem(episode: Episode, spec: WorldSpec) -> tuple[str, str, str] | None:
    """(check, kind of problem, text) of an episode with values outside a Discrete space: they cannot be encoded."""
    columns = episode.observation_columns()
    pairs = {key: (columns[key], space)
             for key, space in observation_spaces(spec.observation_space).items()}  # fmt: skip
    for name, (values, space) in (pairs | {"action": (episode.actions, spec.action_space)}).items():
        if isinstance(space, spaces.Box):
            continue
        sizes, starts = categories(space)
        flat = values.reshape(len(values), -1) - starts
        wrong = (flat < 0) | (flat >= sizes) | (flat != np.floor(flat))
        if wrong.any():
            row, i = np.argwhere(wrong)[0]
            value = values.reshape(len(values), -1)[row, i]
            text = f"{name} has the value {value} at entry {row}, expected an element of {space}"
            return "space", f"values of {name}", text
    return None


def _is_finite(episode: Episode) -> bool:
    return all(np.isfinite(column).all() for column in episode.columns().values())


def _non_finite(episodes: Mapping[int, Episode]) -> Iterator[LintIssue]:
    counts: dict[str, int] = {}
    places: dict[str, str] = {}
    total = 0
    for number, episode in episodes.items():
        flat = {k: c.reshape(len(c), -1) for k, c in episode.columns().items()}
        total = sum(column.shape[1] for column in flat.values())
        for key, column in flat.items():
            for row, i in np.argwhere(~np.isfinite(column)):
                name = column_name(key.removeprefix(f"{OBSERVATION}."), int(i), column.shape[1])
                counts[name] = counts.get(name, 0) + 1
                places.setdefault(name, f"episode {number}, entry {row}")
    if counts:
        texts = {
            name: f"{number_of(count, 'value')}, the first in {places[name]}"
            for name, count in counts.items()
        }
        text = _of_columns(
            texts, total, "has NaN or infinite values", "have NaN or infinite values"
        )
        do = (
            "Repair or remove these episodes: a fit refuses them, and they were left out of the checks of rewards, "
            "actions and episode boundaries."
        )
        yield LintIssue("finite", "error", f"{text}. {do}", next(iter(counts)))


def _early_ends(episodes: Mapping[int, Episode]) -> Iterator[LintIssue]:
    early = {
        number: episode.early_end
        for number, episode in episodes.items()
        if isinstance(episode, Recording) and episode.early_end is not None
    }
    if early:
        number, step = next(iter(early.items()))
        subject = counted(
            [f"episode {each}" for each in early],
            len(episodes),
            "continues after a step marked as terminated or truncated",
            "continue after a step marked as terminated or truncated",
            noun="episodes",
        )
        yield LintIssue(
            "early_end",
            "error",
            f"{subject}: cut them there, or a twin learns the reset as a transition",
            f"episode {number}, step {step}",
        )
