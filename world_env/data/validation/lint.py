"""Check episodes for errors in rewards, resets, ends, columns, actions, hidden state and splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from world_env.data.angles import find_angles
from world_env.data.episode import Episode
from world_env.data.validation.angles import wrapped_angles
from world_env.data.validation.columns import (
    action_coverage,
    constant_or_spiking,
    out_of_bounds,
    usable_episodes,
)
from world_env.data.validation.episode_boundaries import (
    duplicates,
    split_overlap,
    unmarked_resets,
)
from world_env.data.validation.episode_ends import (
    chance_ends,
    constant_reward,
    own_time_limit,
    state_truncations,
    time_limits,
)
from world_env.data.validation.issue import LintIssue, worst_first
from world_env.data.validation.markov_property import markov_property
from world_env.data.validation.precision import coarse_columns
from world_env.data.validation.regression import (
    column_count,
    to_transitions,
    with_encoded_angles,
)
from world_env.data.validation.reward_alignment import reward_alignment
from world_env.spec import WorldSpec

_MAX_STEPS, _MIN_SAMPLE = 20_000, 5_000
"""Steps that the regressions use: with many columns, between these two. Larger data sets are sampled by whole
episodes."""
_COLUMNS_OF_ALL_STEPS = 8
"""Columns up to which the regressions use `_MAX_STEPS`."""


def lint(episodes: Sequence[Episode], spec: WorldSpec) -> list[LintIssue]:
    """Check episodes for errors; return the issues, errors first.

    The content of the episodes never raises an error.

    episodes: unchecked (`Recording`) or checked episodes; "episode 3" is the one at index 3.
    spec: spaces and time limit of the environment.

    Raises UnsupportedSpaceError for spaces that a twin does not support.
    """
    good, issues = usable_episodes(dict(enumerate(episodes)), spec)
    if good:
        issues += [*out_of_bounds(good, spec), *duplicates(good), *constant_reward(good)]
        issues += own_time_limit(good, spec)
        issues += [*_of_transitions(good, spec), *wrapped_angles(good, spec)]
    if any(issue.check == "autoreset" for issue in issues):
        # The row of an automatic reset starts at the end of the episode before: that is not a cut episode.
        issues = [issue for issue in issues if issue.check != "pieces"]
    return worst_first(issues)


def lint_split(
    training: Sequence[Episode], validation: Sequence[Episode], spec: WorldSpec
) -> list[LintIssue]:
    """Check that the training and the validation split share no episodes, parts of episodes or reset seeds.

    training, validation: episodes of the two splits. "episode 3" in an issue is the one at index 3 of `validation`.
    """
    sides = (usable_episodes(dict(enumerate(side)), spec)[0] for side in (training, validation))
    return list(split_overlap(*sides))


def _of_transitions(episodes: Mapping[int, Episode], spec: WorldSpec) -> Iterator[LintIssue]:
    sample = _sample(episodes, spec)
    if len(sample) < len(episodes):
        steps = f"{sum(map(len, sample.values())):,} of {sum(map(len, episodes.values())):,} steps"
        text = (
            f"columns, actions, rewards, resets and time limits were checked in a sample of {steps}"
        )
        yield LintIssue("unchecked", "note", text)
    data = to_transitions(sample, spec)
    yield from constant_or_spiking(data, spec)
    yield from coarse_columns(sample, spec)
    yield from action_coverage(data, spec)
    if not data.before.shape[1]:
        text = (
            "rewards, resets and time limits were not checked: the observations are pixels (images), and these checks "
            "need vectors"
        )
        yield LintIssue("unchecked", "note", text)
        return
    limits = list(time_limits(data, sample, spec))
    boundaries = [*limits, *unmarked_resets(data)]
    yield from boundaries
    yield from state_truncations(data, sample, spec)
    if not limits:
        yield from chance_ends(data)
    angles = find_angles(episodes.values(), spec)
    if angles:
        data = with_encoded_angles(data, spec, angles)
    # A step from one episode into the next has no cause in its own action and observation.
    if not {"autoreset", "glued"} & {issue.check for issue in boundaries}:
        yield from markov_property(data)
    # Wrong terminations and rows of automatic resets would make correct rewards look wrong.
    if {"time_limit", "autoreset"} & {issue.check for issue in boundaries}:
        text = "rewards were not checked: repair the ends of the episodes first, then run the check again"
        yield LintIssue("unchecked", "note", text)
        return
    yield from reward_alignment(data)


def _sample(episodes: Mapping[int, Episode], spec: WorldSpec) -> dict[int, Episode]:
    """Every n-th episode, for about `_MAX_STEPS` steps in total, or fewer of many columns."""
    total, columns = sum(map(len, episodes.values())), column_count(spec)
    most = max(
        _MIN_SAMPLE, _MAX_STEPS * _COLUMNS_OF_ALL_STEPS // max(columns, _COLUMNS_OF_ALL_STEPS)
    )
    every = max(1, -(-total // most))
    return {number: e for n, (number, e) in enumerate(episodes.items()) if n % every == 0}
