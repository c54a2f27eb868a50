"""A twin against logs of the real world, without a simulator: logged actions, replayed from logged starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from world_env.data.episode import Episode
from world_env.errors import InvalidOptionError, TooLittleDataError
from world_env.simulation.simulator import Simulator, SimulatorConfig
from world_env.simulation.termination import ENDS
from world_env.twin.twin import Twin
from world_env.types import JSON, OBSERVATION

LEVEL = 0.9
"""Of the interval that each episode's learned returns span."""
MIN_ROLLOUTS = 19
"""With fewer draws, the outermost ones are an interval of less than 90 %."""
CERTIFIES = (
    "how the twin follows actions like the logged ones from starts like the logged ones; nothing about policies that "
    "act differently: where these lead, the logs do not say, only reality can"
)
OPEN_LOOP = (
    "actions are replayed open loop: where a world is unstable, as in balancing, small errors grow and nobody corrects "
    "them, so a twin can lose the log though a policy that sees where it is would return there what it returns in "
    "reality; a twin that keeps to the log is good, one that does not may be"
)
_MAX_ROWS = 2_000
_ROUNDING = 1e-3
"""Share of the range of returns by which float32 logs may miss a return that is exactly right."""
_TERMINATED, _NON_FINITE = ENDS.index("terminated"), ENDS.index("non_finite")


@dataclass(frozen=True)
class Replay:
    """Learned rollouts of E logged episodes, R each.

    returns: (E, R) undiscounted, until the twin ended or the logged actions ran out.
    ended: (E, R) int, the step after which the twin terminated; 0: it had not when the actions ran out.
    lost: (E, R) bool, whether the twin left the numbers.
    """

    returns: np.ndarray
    ended: np.ndarray
    lost: np.ndarray


def against_logs(
    twin: Twin, episodes: Sequence[Episode], *, rollouts: int = 20, seed: int = 0
) -> JSON:
    """What the twin makes of held-out logged actions: return error, timing of ends, coverage of its intervals.

    Only whole episodes that the twin was not fitted to count. Each is replayed `rollouts` times, every time with other
    noise and, in an ensemble, another member.
    Returns {"episodes", "steps", "rollouts", "left_out", "warnings", "return_error", "termination", "coverage",
    "certifies", "open_loop", "rows"}; returns in task units, "relative" ones in ranges of the logged returns, None
    where undefined.
    Raises TooLittleDataError where nothing is held out, InvalidOptionError for too few rollouts.
    """
    if rollouts < MIN_ROLLOUTS:
        raise InvalidOptionError(
            f"rollouts is {rollouts}: an interval of {LEVEL:.0%} needs at least {MIN_ROLLOUTS}"
        )
    judged, left_out, warnings = held_out(twin, episodes)
    replayed = replay(twin, judged, rollouts, seed)
    logged = np.array([episode.rewards.sum(dtype=np.float64) for episode in judged])
    width = float(np.ptp(logged))
    # The quantile of the next draw, not of these: unbiased however few they are.
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(replayed.returns, [tail, 1 - tail], axis=1, method="weibull")
    slack = _ROUNDING * (width or float(np.abs(logged).max()))
    inside = (logged >= low - slack) & (logged <= high + slack)
    learned = replayed.returns.mean(1)
    return {
        "episodes": len(judged),
        "steps": sum(map(len, judged)),
        "rollouts": rollouts,
        "left_out": left_out,
        "warnings": warnings,
        "return_error": _return_error(learned - logged, width),
        "termination": _termination(judged, replayed),
        "coverage": _coverage(inside, high - low, width),
        "certifies": CERTIFIES,
        "open_loop": OPEN_LOOP,
        "rows": [
            {
                "digest": episode.digest(),
                "steps": len(episode),
                "logged": logged[i],
                "learned": learned[i],
                "error": learned[i] - logged[i],
                "interval": [low[i], high[i]],
                "inside": bool(inside[i]),
                "terminated": bool(episode.terminated),
                "ended": _median(replayed.ended[i][replayed.ended[i] > 0]),
                "ended_share": float((replayed.ended[i] > 0).mean()),
            }
            for i, episode in enumerate(judged)
        ],
    }


def held_out(twin: Twin, episodes: Sequence[Episode]) -> tuple[list[Episode], JSON, list[str]]:
    """(whole episodes that the twin was not fitted to, how many others by reason, what to keep in mind).

    Raises TooLittleDataError where there is none.
    """
    known = twin.provenance.get("trained_on")
    trained = set(known or ())
    validated = set(twin.provenance.get("validated_on", ()))
    whole = [episode for episode in episodes if episode.elapsed == 0]
    fresh = [episode for episode in whole if episode.digest() not in trained]
    left_out = {"pieces": len(episodes) - len(whole), "trained_on": len(whole) - len(fresh)}
    if not fresh:
        raise TooLittleDataError(
            f"none of the {len(episodes)} episodes is held out: the twin was fitted to {left_out['trained_on']}, and "
            f"{left_out['pieces']} begin inside an episode. Give logs that were kept away from `fit`, or fit again "
            "with 10 or more episodes, of which it holds some out"
        )
    warnings = []
    if known is None:
        warnings.append(
            "this twin does not say which episodes it was fitted to: these may be among them, and then it looks "
            "better than it is. Fit it again to know"
        )
    chose = sum(episode.digest() in validated for episode in fresh)
    if chose:
        warnings.append(
            f"{chose} of the {len(fresh)} episodes chose the twin's weights and thresholds, though it was not fitted "
            "to them: on new logs it may do somewhat worse"
        )
    return fresh, left_out, warnings


def replay(twin: Twin, episodes: Sequence[Episode], rollouts: int, seed: int = 0) -> Replay:
    """Each episode's actions, `rollouts` times, from its first observation. Uncertainty is ignored, as in `compare`."""
    shape = (len(episodes), rollouts)
    whole = Replay(np.zeros(shape), np.zeros(shape, np.int64), np.zeros(shape, bool))
    # Episodes of like lengths together: a row that has ended still costs.
    order = np.argsort([len(episode) for episode in episodes], kind="stable")
    size = max(1, _MAX_ROWS // rollouts)
    for begin in range(0, len(order), size):
        chosen = order[begin : begin + size]
        part = _replay([episodes[i] for i in chosen], twin, rollouts, seed + begin * rollouts)
        for name in ("returns", "ended", "lost"):
            getattr(whole, name)[chosen] = getattr(part, name)
    return whole


def _replay(episodes: list[Episode], twin: Twin, rollouts: int, seed: int) -> Replay:
    lengths = np.repeat([len(episode) for episode in episodes], rollouts)
    rows, longest = len(lengths), int(lengths.max())
    # The logs end by themselves: a limit of the twin's must not end them first.
    simulator = Simulator(twin, rows, seed=seed, config=SimulatorConfig(horizon=longest + 1))
    simulator.reset(options={"observation": _starts(episodes, rollouts)})
    returns, ended, lost = np.zeros(rows), np.zeros(rows, np.int64), np.zeros(rows, bool)
    for step in range(longest):
        running = ~simulator.finished & (step < lengths)
        if not running.any():
            break
        actions = np.stack([e.actions[min(step, len(e) - 1)] for e in episodes])
        result = simulator.step(np.repeat(actions, rollouts, axis=0), rows=running)
        returns += np.where(running, result.reward, 0.0)
        ended[running & (result.end == _TERMINATED)] = step + 1
        lost |= running & (result.end == _NON_FINITE)
    shape = (len(episodes), rollouts)
    return Replay(returns.reshape(shape), ended.reshape(shape), lost.reshape(shape))


def _starts(episodes: list[Episode], rollouts: int) -> Any:
    columns = [episode.observation_columns() for episode in episodes]
    parts = {
        key: np.repeat(np.stack([each[key][0] for each in columns]), rollouts, axis=0)
        for key in columns[0]
    }
    return parts if isinstance(episodes[0].observations, dict) else parts[OBSERVATION]


def _return_error(error: np.ndarray, width: float) -> JSON:
    mean, absolute = float(error.mean()), float(np.abs(error).mean())
    return {
        "mean": mean,
        "mean_absolute": absolute,
        "range": width,
        "mean_relative": mean / width if width else None,
        "mean_absolute_relative": absolute / width if width else None,
    }


def _termination(episodes: Sequence[Episode], replayed: Replay) -> JSON:
    """How the twin's ends lie to the logged ones; an end after the last logged action is missed, not late."""
    died = np.array([episode.terminated for episode in episodes])
    lengths = np.array([len(episode) for episode in episodes])[:, None]
    ended = replayed.ended > 0
    early = (lengths - replayed.ended)[died]
    reached = ended[died]
    return {
        "logged_ends": int(died.sum()),
        "on_time": _share(reached & (early == 0)),
        "early": _share(reached & (early > 0)),
        "missed": _share(~reached),
        "median_absolute_difference": _median(early[reached]),
        "false_ends": _share(ended[~died]),
        "non_finite": _share(replayed.lost),
    }


def _coverage(inside: np.ndarray, widths: np.ndarray, width: float) -> JSON:
    interval = binomtest(int(inside.sum()), len(inside)).proportion_ci(0.95)
    typical = float(np.median(widths))
    return {
        "level": LEVEL,
        "inside": float(inside.mean()),
        "inside_ci95": [float(interval.low), float(interval.high)],
        "median_width": typical,
        "median_width_relative": typical / width if width else None,
    }


def _share(which: np.ndarray) -> float | None:
    return float(which.mean()) if which.size else None


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if values.size else None
