"""What is wrong with episodes before a twin learns it: rewards, resets, limits, columns, actions, splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from world_env.data.episode import Episode
from world_env.data.validation.columns import actions_tried, outside, still_or_spiking, usable
from world_env.data.validation.episode_boundaries import repeats, resets, shared, time_limits
from world_env.data.validation.issue import LintIssue, worst_first
from world_env.data.validation.regression import flatten
from world_env.data.validation.reward_alignment import by_the_clock, shifted
from world_env.spec import WorldSpec

_MAX_STEPS = 20_000
"""Steps that laws are fitted to; whole episodes, spread over the data."""


def lint(episodes: Sequence[Episode], spec: WorldSpec) -> list[LintIssue]:
    """What is wrong with episodes, the worst first; never raises because of what they hold.

    episodes: as they were recorded (`Recording`), or checked ones; "episode 3" is the one at place 3.
    Raises UnsupportedSpaceError for spaces that no twin covers.
    """
    good, found = usable(dict(enumerate(episodes)), spec)
    if good:
        found += [*outside(good, spec), *repeats(good), *_of_transitions(good, spec)]
    if any(finding.check == "autoreset" for finding in found):
        # The row of a reset shows the end of the episode before: no episode was cut there.
        found = [finding for finding in found if finding.check != "pieces"]
    return worst_first(found)


def lint_split(
    training: Sequence[Episode], held_out: Sequence[Episode], spec: WorldSpec
) -> list[LintIssue]:
    """What two sides of a split share, though nothing of one should be in the other."""
    sides = (usable(dict(enumerate(side)), spec)[0] for side in (training, held_out))
    return list(shared(*sides))


def _of_transitions(episodes: Mapping[int, Episode], spec: WorldSpec) -> Iterator[LintIssue]:
    sample = _sample(episodes)
    if len(sample) < len(episodes):
        steps = f"{sum(map(len, sample.values())):,} of {sum(map(len, episodes.values())):,} steps"
        yield LintIssue(
            "unchecked", "note", f"columns, rewards and resets were looked at in {steps}"
        )
    data = flatten(sample, spec)
    yield from still_or_spiking(data, spec)
    yield from actions_tried(data, spec)
    if not data.before.shape[1]:
        text = "observations are pixels: rewards, resets and limits were not looked at"
        yield LintIssue("unchecked", "note", text)
        return
    seams = [*time_limits(data, sample, spec), *resets(data)]
    yield from seams
    # Both make rewards look wrong that are right: the one by false ends, the other by rows without any.
    if {"time_limit", "autoreset"} & {finding.check for finding in seams}:
        yield LintIssue("unchecked", "note", "rewards were not looked at: repair the ends first")
        return
    shifts = list(shifted(data))
    yield from shifts or by_the_clock(data)


def _sample(episodes: Mapping[int, Episode]) -> dict[int, Episode]:
    """Whole episodes spread over the data, about as many steps as are looked at."""
    total = sum(map(len, episodes.values()))
    every = max(1, -(-total // _MAX_STEPS))
    return {number: e for n, (number, e) in enumerate(episodes.items()) if n % every == 0}
