"""Log of one round of a refinement."""

from __future__ import annotations

from world_env.struct import Struct


class PredictedReturn(Struct, frozen=True, kw_only=True):
    """Predicted return of a policy, task units.

    low, high: None for a model without members before any real evaluation episode.
    """

    mean: float
    low: float | None
    high: float | None


class RealEvaluation(Struct, frozen=True, kw_only=True):
    """Real evaluation episodes of the policy that an earlier round selected for them."""

    round: int
    """The earlier round."""
    policy: str
    """Name of the policy."""
    returns: list[float]
    """Return of each episode, task units."""
    predicted_return: float
    """Learned return in the twin of the earlier round."""


class RoundLog(Struct, frozen=True, kw_only=True):
    """Log of one round, stored as its `round.json`. Returns are in task units."""

    round: int
    """Number of the round, from 0."""
    real_steps: int
    """Real steps of all rounds so far."""
    learned_steps: int
    """Training steps of all policies so far that can be selected."""
    estimates: dict[str, float]
    """Policy -> learned return; empty where one policy alone can be selected."""
    chosen: str
    """The selected policy."""
    goes_on: str = "policy"
    """Name of the round's newest policy, from which the next round is warm-started."""
    discounted: dict[str, float] = {}
    """Name -> discounted learned return of the warm-started policy and of the restart, if there is one."""
    contender: str
    """The policy of the next round's real evaluation episodes."""
    predicted_return: PredictedReturn | None
    """Predicted return of the selected policy; None without a time limit."""
    expected: float | None
    """Learned return of the contender; None without a time limit."""
    reality: RealEvaluation | None
    """This round's real evaluation episodes; None without a whole episode."""
    seconds: dict[str, float]
    """Stage -> duration."""
