"""Comparison of the learned and the real returns of policies."""

from __future__ import annotations

import re

from world_env.results.formatting import percent, show, signed, with_interval
from world_env.results.provenance import Facts
from world_env.struct import Struct

Interval = tuple[float, float]
"""Bounds (low, high)."""

_POLICY = re.compile(r"(?P<algo>a2c|ddpg|dqn|ppo|sac|svg|td3)_(?P<place>twin|real_same_steps)")
_LONGEST_NAME = 24
"""Characters of a policy's name in a printed table; longer names are cut."""


class PolicyComparison(Struct, frozen=True, kw_only=True):
    """Learned and real return of one policy, task units, with 95 % intervals."""

    policy: str
    """Name of the policy."""
    real_mean: float
    """Mean return in the real environment."""
    real_ci95: Interval | None
    """95 % interval of the real mean; None: unknown, for one episode."""
    learned_mean: float | None = None
    """Mean return in the twin; None: the policy was not evaluated in the twin."""
    learned_ci95: Interval | None = None
    """95 % interval of the learned mean."""
    past_threshold_share: float | None = None
    """Share of the learned steps that are out of distribution; None: the twin has no threshold."""
    episodes: int
    """Episodes on each side."""
    real_steps: int | None = None
    """Real steps that the policy needed, without this comparison; None: unknown."""

    @property
    def label(self) -> str:
        """Name of the policy in words."""
        return policy_label(self.policy)

    @property
    def return_gap(self) -> float | None:
        """Learned minus real return, task units."""
        return None if self.learned_mean is None else self.learned_mean - self.real_mean

    @property
    def real_text(self) -> str:
        """Real return with its interval."""
        return with_interval(self.real_mean, self.real_ci95)

    @property
    def learned_text(self) -> str:
        """Learned return with its interval."""
        return with_interval(self.learned_mean, self.learned_ci95)

    @property
    def gap_text(self) -> str:
        """Return gap with its sign."""
        return signed(self.return_gap)


class Comparison(Struct, frozen=True, kw_only=True):
    """Result of `compare`. `print` shows it as a table."""

    env_id: str
    """Gymnasium id of the real environment."""
    episodes: int
    """Episodes per policy and side."""
    horizon: int | None = None
    """Time limit of the episodes on both sides, in steps; None: unknown."""
    limits: tuple[int | None, int | None] | None = None
    """Time limits of the twin and of the real environment, in steps; `horizon` is the smaller one. None: unknown."""
    seeds: tuple[int, int] | None = None
    """First and last reset seed of the real environment."""
    rows: list[PolicyComparison]
    """One entry per policy."""
    real_steps_by_purpose: dict[str, int] = {}
    """Purpose -> real steps, as counted by the ledger."""
    judging_steps: dict[str, int] = {}
    """Policy -> real steps of its episodes in this comparison; policies with an unknown number are absent."""
    seed: int | None = None
    """Seed of the run that trained the policies."""
    provenance: Facts | None = None
    """Commit, date, machine and command of the comparison."""

    def __str__(self) -> str:
        head = ("policy", "real return [95 %]", "learned return [95 %]", "return gap", "OOD")
        lines = [head] + [
            (
                _label(row.policy),
                row.real_text,
                row.learned_text,
                row.gap_text,
                percent(row.past_threshold_share),
            )
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = [
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
            for line in lines
        ]
        note = f"Means over {show(self.episodes)} episodes. OOD: share of learned steps out of distribution."
        return "\n".join([*table, note, *([self.limit_text] if self.horizon is not None else [])])

    @property
    def limit_text(self) -> str:
        """The time limit in words, with those of both sides where they differ."""
        if self.horizon is None:
            return "Time limit unknown."
        both = ""
        if self.limits is not None and self.limits[0] != self.limits[1]:
            own, real = ("none" if limit is None else show(limit) for limit in self.limits)
            both = f" on both sides, the smaller one (twin: {own}, real environment: {real})"
        return f"Time limit {show(self.horizon)} steps{both}."


def policy_label(name: str) -> str:
    """Label of a compared policy: words for the names that a build gives, any other name unchanged."""
    if name == "random":
        return "random actions"
    found = _POLICY.fullmatch(name)
    if found is None:
        return name
    algo = found["algo"].upper()
    if is_trained_in_twin(name):
        return f"{algo} trained in the twin"
    return f"{algo} trained in the real environment, same steps"


def is_trained_in_twin(name: str) -> bool:
    """Whether a build gives this name to the policy that it trains in the twin."""
    found = _POLICY.fullmatch(name)
    return found is not None and found["place"] == "twin"


def is_baseline(name: str) -> bool:
    """Whether a build gives this name to a policy that needs no twin."""
    return policy_label(name) != name and not is_trained_in_twin(name)


def _label(name: str) -> str:
    label = policy_label(name)
    if len(label) <= _LONGEST_NAME:
        return label
    # Of the path of a policy the end is the name.
    return f"…{label[1 - _LONGEST_NAME :]}" if label == name else f"{label[: _LONGEST_NAME - 1]}…"
