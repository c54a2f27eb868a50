"""Comparison of a twin with logged episodes, whose actions were replayed in it."""

from __future__ import annotations

from world_env.results.comparison import Interval
from world_env.results.provenance import Facts
from world_env.struct import Struct


class ReturnErrors(Struct, frozen=True, kw_only=True):
    """Learned minus logged returns, task units. Relative: as a share of the range; None for equal returns."""

    mean: float
    mean_absolute: float
    range: float
    """Range of the logged returns."""
    mean_relative: float | None
    mean_absolute_relative: float | None


class TerminationTimes(Struct, frozen=True, kw_only=True):
    """Times of learned against logged terminations; None without such episodes.

    A termination after the last logged action counts as missed.
    """

    logged_ends: int
    on_time: float | None
    early: float | None
    missed: float | None
    median_absolute_difference: float | None
    """Steps too early."""
    false_ends: float | None
    """Share of the rollouts that terminate where the logged episode continues."""
    non_finite: float | None
    """Share of the rollouts with NaN or infinite values."""


class IntervalCoverage(Struct, frozen=True, kw_only=True):
    """Coverage of the intervals of learned returns."""

    level: float
    """Nominal coverage."""
    inside: float
    """Share of the logged returns inside their interval."""
    inside_ci95: Interval
    median_width: float
    """Task units."""
    median_width_relative: float | None


class ReplayedEpisode(Struct, frozen=True, kw_only=True):
    """Logged and learned return of one episode, task units."""

    digest: str
    steps: int
    logged: float
    learned: float
    error: float
    interval: Interval
    inside: bool
    terminated: bool
    ended: float | None
    """Median step of the learned terminations."""
    ended_share: float
    """Share of the rollouts that terminate."""


class LogComparison(Struct, frozen=True, kw_only=True):
    """Result of `replay_logs`."""

    episodes: int
    """Replayed episodes."""
    steps: int
    """Their steps."""
    rollouts: int
    """Learned rollouts of each episode."""
    left_out: dict[str, int]
    """Reason -> episodes that were not used."""
    warnings: list[str]
    """Warnings about the logs and the twin."""
    return_error: ReturnErrors
    """Learned minus logged returns."""
    termination: TerminationTimes
    """Times of terminations."""
    coverage: IntervalCoverage
    """Coverage of the intervals of learned returns."""
    certifies: str
    """Scope of the comparison, in words."""
    open_loop: str
    """Limitation of the comparison, in words."""
    rows: list[ReplayedEpisode]
    """One entry per episode."""
    dataset: str | None = None
    """Name of the logs."""
    provenance: Facts | None = None
    """Commit, date, machine and command of the comparison."""
