"""Evaluation of a twin on logged episodes: logged actions are replayed in the twin from logged first observations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from world_env.data.episode import Episode, stacked_conditioning
from world_env.errors import InvalidOptionError, TooLittleDataError
from world_env.policies.function_policy import LoggedActionsPolicy
from world_env.results.log_comparison import (
    IntervalCoverage,
    LogComparison,
    ReplayedEpisode,
    ReturnErrors,
    TerminationTimes,
)
from world_env.rollouts.learned import run_learned
from world_env.simulation.termination import ENDS
from world_env.twin.twin import Twin
from world_env.types import OBSERVATION

LEVEL = 0.9
"""Nominal coverage of the interval of each episode's learned returns."""
MIN_ROLLOUTS = 19
"""Fewest rollouts per episode: with fewer, the smallest and the largest return span less than 90 %."""
CERTIFIES = (
    "how closely the twin follows actions like the logged ones from initial states like the logged ones, and nothing "
    "about policies that act differently: only the real environment shows their returns"
)
OPEN_LOOP = (
    "actions are replayed open loop: in unstable tasks, such as balancing, small errors grow without feedback. A twin "
    "can then deviate from the log although a policy that observes the state has the same return in both. A small "
    "deviation shows an accurate twin, a large one does not show an inaccurate one"
)
_MAX_ROWS = 2_000
_ROUNDING = 1e-3
"""Tolerance of an interval for the rounding of float32 logs, as a share of the range of returns."""
_TERMINATED, _NON_FINITE = ENDS.index("terminated"), ENDS.index("non_finite")


@dataclass(frozen=True)
class Replay:
    """Learned rollouts of E logged episodes, R each.

    returns: (E, R) undiscounted returns until the rollout or the logged actions ended, task units.
    ended: (E, R) int, step at which the rollout terminated; 0: it did not.
    lost: (E, R) bool, whether the rollout had NaN or infinite values.
    """

    returns: np.ndarray
    ended: np.ndarray
    lost: np.ndarray


def replay_logs(
    twin: Twin, episodes: Sequence[Episode], *, rollouts: int = 20, seed: int = 0
) -> LogComparison:
    """Evaluate a twin on logged episodes: return error, time of terminations, coverage of return intervals.

    Uses whole episodes that the twin was not fitted to. Each is replayed `rollouts` times, with other noise and, in an
    ensemble, another member each time.
    Raises TooLittleDataError where the twin was fitted to all episodes, InvalidOptionError for too few rollouts.
    """
    if rollouts < MIN_ROLLOUTS:
        raise InvalidOptionError(
            f"rollouts is {rollouts}, expected at least {MIN_ROLLOUTS}: fewer give no interval of {100 * LEVEL:.0f} %"
        )
    fresh, left_out, warnings = held_out(twin, episodes)
    replayed = replay(twin, fresh, rollouts, seed)
    logged = np.array([episode.rewards.sum(dtype=np.float64) for episode in fresh])
    width = float(np.ptp(logged))
    # Quantiles of the next draw instead of these draws: unbiased for any number of rollouts.
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(replayed.returns, [tail, 1 - tail], axis=1, method="weibull")
    slack = _ROUNDING * (width or float(np.abs(logged).max()))
    inside = (logged >= low - slack) & (logged <= high + slack)
    learned = replayed.returns.mean(1)
    rows = [
        ReplayedEpisode(
            digest=episode.digest(),
            steps=len(episode),
            logged=float(logged[i]),
            learned=float(learned[i]),
            error=float(learned[i] - logged[i]),
            interval=(float(low[i]), float(high[i])),
            inside=bool(inside[i]),
            terminated=bool(episode.terminated),
            ended=_median(replayed.ended[i][replayed.ended[i] > 0]),
            ended_share=float((replayed.ended[i] > 0).mean()),
        )
        for i, episode in enumerate(fresh)
    ]
    return LogComparison(
        episodes=len(fresh),
        steps=sum(map(len, fresh)),
        rollouts=rollouts,
        left_out=left_out,
        warnings=warnings,
        return_error=_return_error(learned - logged, width),
        termination=_termination(fresh, replayed),
        coverage=_coverage(inside, high - low, width),
        certifies=CERTIFIES,
        open_loop=OPEN_LOOP,
        rows=rows,
    )


def held_out(
    twin: Twin, episodes: Sequence[Episode]
) -> tuple[list[Episode], dict[str, int], list[str]]:
    """(whole episodes that the twin was not fitted to, numbers of the others by reason, warnings).

    Raises TooLittleDataError where there is none.
    """
    known = twin.provenance.trained_on
    trained, validated = set(known or ()), set(twin.provenance.validated_on or ())
    whole = [episode for episode in episodes if episode.elapsed == 0]
    fresh = [episode for episode in whole if episode.digest() not in trained]
    left_out = {"pieces": len(episodes) - len(whole), "trained_on": len(whole) - len(fresh)}
    if not fresh:
        raise TooLittleDataError(
            f"none of the {len(episodes)} episodes can be used: the twin was fitted to {left_out['trained_on']}, and "
            f"{left_out['pieces']} begin inside an episode. Give logs that were kept away from `fit`, or fit again "
            "with 10 or more episodes, so that there is a validation split"
        )
    warnings = []
    if known is None:
        warnings.append(
            "this twin has no record of its training episodes: errors are too small if these episodes are among "
            "them. Fit it again to record them"
        )
    chose = sum(episode.digest() in validated for episode in fresh)
    if chose:
        warnings.append(
            f"{chose} of the {len(fresh)} episodes are the validation split of the fit, which selected weights "
            "and thresholds: errors on new logs may be larger"
        )
    return fresh, left_out, warnings


def replay(twin: Twin, episodes: Sequence[Episode], rollouts: int, seed: int = 0) -> Replay:
    """Replay the actions of each episode `rollouts` times from its first observation; uncertainty is ignored."""
    shape = (len(episodes), rollouts)
    whole = Replay(np.zeros(shape), np.zeros(shape, np.int64), np.zeros(shape, bool))
    # Episodes of similar length together, because a batch row that has ended still takes time.
    order = np.argsort([len(episode) for episode in episodes], kind="stable")
    size = max(1, _MAX_ROWS // rollouts)
    for begin in range(0, len(order), size):
        chosen = order[begin : begin + size]
        part = _replay([episodes[i] for i in chosen], twin, rollouts, seed + begin * rollouts)
        for name in ("returns", "ended", "lost"):
            getattr(whole, name)[chosen] = getattr(part, name)
    return whole


def _replay(episodes: list[Episode], twin: Twin, rollouts: int, seed: int) -> Replay:
    policy = LoggedActionsPolicy([each.actions for each in episodes for _ in range(rollouts)])
    lengths = np.repeat([len(episode) for episode in episodes], rollouts)
    first = _first_observations(episodes, rollouts)
    # The time limit of the twin must not end a rollout before its log.
    given = stacked_conditioning(episodes) if twin.model.conditioning else {}
    conditioning = {name: values.repeat(rollouts, axis=0) for name, values in given.items()}
    played = run_learned(
        policy, twin, first, seed=seed, conditioning=conditioning, max_steps=lengths
    )
    assert played.ends is not None
    ended = np.where(played.ends == _TERMINATED, played.lengths, 0)
    shape = (len(episodes), rollouts)
    return Replay(
        played.values.reshape(shape),
        ended.reshape(shape),
        (played.ends == _NON_FINITE).reshape(shape),
    )


def _first_observations(episodes: list[Episode], rollouts: int) -> Any:
    columns = [episode.observation_columns() for episode in episodes]
    parts = {
        key: np.repeat(np.stack([each[key][0] for each in columns]), rollouts, axis=0)
        for key in columns[0]
    }
    return parts if isinstance(episodes[0].observations, dict) else parts[OBSERVATION]


def _return_error(error: np.ndarray, width: float) -> ReturnErrors:
    mean, absolute = float(error.mean()), float(np.abs(error).mean())
    return ReturnErrors(
        mean=mean,
        mean_absolute=absolute,
        range=width,
        mean_relative=mean / width if width else None,
        mean_absolute_relative=absolute / width if width else None,
    )


def _termination(episodes: Sequence[Episode], replayed: Replay) -> TerminationTimes:
    terminated = np.array([episode.terminated for episode in episodes])
    lengths = np.array([len(episode) for episode in episodes])[:, None]
    ended = replayed.ended > 0
    early = (lengths - replayed.ended)[terminated]
    reached = ended[terminated]
    return TerminationTimes(
        logged_ends=int(terminated.sum()),
        on_time=_share(reached & (early == 0)),
        early=_share(reached & (early > 0)),
        missed=_share(~reached),
        median_absolute_difference=_median(early[reached]),
        false_ends=_share(ended[~terminated]),
        non_finite=_share(replayed.lost),
    )


def _coverage(inside: np.ndarray, widths: np.ndarray, width: float) -> IntervalCoverage:
    interval = binomtest(int(inside.sum()), len(inside)).proportion_ci(0.95)
    typical = float(np.median(widths))
    return IntervalCoverage(
        level=LEVEL,
        inside=float(inside.mean()),
        inside_ci95=(float(interval.low), float(interval.high)),
        median_width=typical,
        median_width_relative=typical / width if width else None,
    )


def _share(mask: np.ndarray) -> float | None:
    return float(mask.mean()) if mask.size else None


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if values.size else None
