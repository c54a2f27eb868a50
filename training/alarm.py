"""An alarm for policies that learn to exploit what their twin gets wrong, for any Stable-Baselines3 algorithm.

Every so many learned steps the policy plays, deterministic, a few episodes in the twin and beside it, from the same
starts, in a judge: another twin of the same data that it never trains in. A return above the data's is no sign, good
twins of random data give one; these are:

    reward       the model pays, before the simulator clips it, what no step of the data was paid
    uncertainty  many steps lie past the largest uncertainty that the data itself showed
    frozen       nothing moves, though it does where the judge is asked
    judge        the twin pays much more than the judge does for the same policy
    spot_check   the twin pays much more than reality does, on a budget of real steps

The judge is a second twin fitted with another seed (other weights, windows and held-out episodes), not members of an
ensemble that are kept out: every family has seeds, no family has to give up members, and it sees what befell the one
twin alone. It costs a second fit. What the data does not show, both get wrong; that is left to uncertainty and reality.
Sources: kept-out members of Kurutach et al. 2018 (ME-TRPO, arXiv:1802.10592).
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from stable_baselines3.common.callbacks import BaseCallback

from training.lived import Lived, half_width, live, lower_gap, starts_of
from training.real import RealConfig, StepLedger, spec_of
from training.returns import Actor, check_horizon, policy_actor, run_learned, run_real
from world_env.errors import InvalidOptionError, StageError
from world_env.spec import JSON, DataRange, check_same_spaces
from world_env.twin import Twin

SIGNALS = ("reward", "uncertainty", "frozen", "judge", "spot_check")

Interval = Callable[[float], tuple[float, float]]
"""Learned mean return -> 90 % interval of the real one."""

_NEVER_MOVES = 1e-3
"""Without a judge: the change, in widths of the data's range, below which a world counts as frozen."""
_MOST_SEEDS = 100_000
_FIRST_SEED = 1_000_000
"""Reset seeds of spot checks, far from those that judge."""


class ExploitationWarning(UserWarning):
    """A policy seems to earn from its twin's errors."""


@dataclass(frozen=True)
class AlarmConfig:
    """When an alarm looks and what it takes for a sign; the limits' origin: benchmarks/alarm.py."""

    every: int = 50_000
    """Learned steps from one check to the next; the policy at the end is checked too."""
    rows: int = 32
    """Episodes a check, in the twin and again in the judge."""
    stop: bool = False
    """Whether the first finding ends the training."""
    reward_share: float = 0.02
    """"reward": share of steps paid outside the data's range."""
    reward_margin: float = 0.02
    """"reward": how far outside, in widths of that range (in the largest reward where all are equal)."""
    uncertain_share: float = 0.5
    """"uncertainty": share of steps past the twin's threshold."""
    still: float = 0.25
    """"frozen": largest usual change of a step, as a share of the judge's."""
    gap: float = 0.1
    """"judge" and "spot_check": learned mean less the other, as a share of the larger of their sizes."""
    spot_check_steps: int = 0
    """Real steps that all spot checks together may cost; 0: none is made."""
    spot_check_every: int = 100_000
    """Learned steps from one spot check to the next; the policy at the end is checked too."""
    spot_check_episodes: int = 5
    """Real episodes of a spot check; fewer where the budget might not last."""
    seed: int = 0
    """Of the learned episodes and of the real resets."""

    def __post_init__(self) -> None:
        if (
            min(self.every, self.spot_check_every) < 1
            or min(self.rows, self.spot_check_episodes) < 2
        ):
            raise InvalidOptionError(
                f"every is {self.every}, spot_check_every {self.spot_check_every}, rows {self.rows} and "
                f"spot_check_episodes {self.spot_check_episodes}: expected at least 1 step and 2 episodes"
            )
        limits = (self.reward_share, self.reward_margin, self.uncertain_share, self.still, self.gap)
        if not all(0.0 <= limit < math.inf for limit in limits) or self.spot_check_steps < 0:
            raise InvalidOptionError(
                f"limits {limits} and {self.spot_check_steps} real steps: expected numbers >= 0"
            )


class ExploitationAlarm(BaseCallback):
    """Watches a policy that trains in `twin`; give it to `learn(twin, config, callbacks=[...])`.

    It warns once a signal (ExploitationWarning), records its measures under "alarm/" in the algorithm's logger, and
    changes nothing else: the training is the same, number by number, unless it is stopped.

    findings: {"step", "signal", "value", "limit", "says"} of every signal at every check, JSON.
    checks: {"step", ...} the measures of every check, JSON; `Lived.to_json` for "learned_..." and "judge_...".
    real_steps: what spot checks have cost so far, counted in the ledger under "spot_check". seconds: what checks have.
    """

    def __init__(
        self,
        twin: Twin,
        config: AlarmConfig | None = None,
        *,
        judge: Twin | None = None,
        real: RealConfig | None = None,
        ledger: StepLedger | None = None,
        interval: Interval | None = None,
    ) -> None:
        """A watch on `twin`.

        judge: another twin of the same data; without it "judge" is silent and "frozen" sees only what never moves.
        real, ledger: for spot checks. interval: what the twin promises; a real mean below it is a finding, instead of
            one that is `gap` below the learned mean.
        Raises InvalidOptionError (no horizon or time limit; a budget below two whole episodes), StageError (a budget
        without `real` or `ledger`), SpaceMismatchError (a judge or a reality of other spaces).
        """
        super().__init__()
        self.twin, self.judge, self.config = twin, judge, config or AlarmConfig()
        self.findings: list[JSON] = []
        self.checks: list[JSON] = []
        self.real_steps, self.seconds = 0, 0.0
        self._real, self._ledger, self._interval = real, ledger, interval
        self._last = self._last_spot = self._spots = 0
        self._longest = 0
        check_horizon(twin)
        if judge is not None:
            _check_judge(judge, twin)
        if self.config.spot_check_steps:
            self._check_budget()

    @property
    def raised(self) -> bool:
        """Whether anything was found."""
        return bool(self.findings)

    @property
    def signals(self) -> list[str]:
        """What was found so far, in the order of SIGNALS."""
        found = {finding["signal"] for finding in self.findings}
        return [signal for signal in SIGNALS if signal in found]

    def check(self, *, last: bool = False) -> list[JSON]:
        """Look now; returns this check's findings. Needs a model: `init_callback`, or a running training.

        last: of this training, so that reality is asked if the budget allows.
        """
        began = time.perf_counter()
        actor, config = policy_actor(self.model), self.config
        ranges = self._ranges()
        first = starts_of(self.twin, config.rows, config.seed + len(self.checks))
        look = partial(live, actor, margin=config.reward_margin, seed=config.seed)
        own = look(self.twin, first, ranges)
        measures = {"step": self.num_timesteps} | _named("learned", own.to_json())
        found = [_reward(own, config), _uncertainty(own, config)]
        if self.judge is None:
            found.append(_frozen(own, _NEVER_MOVES))
        else:
            other = look(self.judge, first, ranges)
            gap = lower_gap(own.returns.values, other.returns.values, least=self._least())
            measures |= _named("judge", other.to_json()) | {"judge_gap": gap}
            found.append(_frozen(own, config.still * (other.motion or 0.0)))
            says = f"it earns {own.returns.mean:.4g} in its twin and {other.returns.mean:.4g} in the judge"
            found.append(_finding("judge", gap, config.gap, says))
        if self._spot_is_due(last):
            spot, finding = self._spot_check(actor)
            measures |= spot
            found.append(finding)
        self._last = self.num_timesteps
        self.seconds += time.perf_counter() - began
        return self._tell(measures, [finding for finding in found if finding is not None])

    # -- what Stable-Baselines3 calls ----------------------------------------------------------------------------

    def _on_training_start(self) -> None:
        self._last = self._last_spot = self.num_timesteps

    def _on_step(self) -> bool:
        left = self.locals.get("total_timesteps", math.inf) - self.num_timesteps
        # So near the end there is little to stop, and the policy that is kept is checked anyhow.
        if self.num_timesteps - self._last < self.config.every or left < self.config.every // 4:
            return True
        return not (self.check() and self.config.stop)

    def _on_training_end(self) -> None:
        if self.num_timesteps > self._last:
            self.check(last=True)

    def _ranges(self) -> DataRange | None:
        """What the data showed, by the judge if there is one: a twin may be wrong about its data too."""
        return (self.twin if self.judge is None else self.judge).ranges

    def _least(self) -> float:
        """Returns smaller than the range of one step's reward are too small to measure a gap by."""
        ranges = self._ranges()
        return 0.0 if ranges is None else ranges.reward[1] - ranges.reward[0]

    # -- reality -------------------------------------------------------------------------------------------------

    def _check_budget(self) -> None:
        if self._real is None or self._ledger is None:
            raise StageError(
                f"{self.config.spot_check_steps} real steps are to be spent on spot checks: pass `real`, and the "
                "`ledger` that counts them"
            )
        spec = spec_of(self._real)
        check_same_spaces(spec, self.twin.spec)
        if spec.horizon is None:
            raise InvalidOptionError(
                f"{self._real.env_id} has no time limit, so one episode could take the whole budget: wrap it in one"
            )
        self._longest = spec.horizon * spec.action_chunk
        if self.config.spot_check_steps < 2 * self._longest:
            raise InvalidOptionError(
                f"spot_check_steps is {self.config.spot_check_steps}, but two episodes may take {2 * self._longest} "
                "steps: give at least that, or 0 for no spot checks"
            )

    def _affordable(self) -> int:
        """Episodes that the budget covers however long they last."""
        left = self.config.spot_check_steps - self.real_steps
        return min(self.config.spot_check_episodes, left // self._longest)

    def _spot_is_due(self, last: bool) -> bool:
        if self.config.spot_check_steps == 0 or self._affordable() < 2:
            return False
        return last or self.num_timesteps - self._last_spot >= self.config.spot_check_every

    def _spot_check(self, actor: Actor) -> tuple[JSON, JSON | None]:
        """A few real episodes; (measures, finding)."""
        assert self._real is not None and self._ledger is not None
        begin = _FIRST_SEED + self.config.seed % _MOST_SEEDS * 1000 + self._spots
        seeds = range(begin, begin + self._affordable())
        before = self._ledger.by_purpose.get("spot_check", 0)
        reality = run_real(actor, self._real, seeds, purpose="spot_check", ledger=self._ledger)
        self._spots += len(seeds)
        self._last_spot = self.num_timesteps
        self.real_steps += self._ledger.by_purpose["spot_check"] - before
        learned = run_learned(actor, self.twin, reality.first, seed=self.config.seed)
        gap = lower_gap(learned.values, reality.values, least=self._least())
        measures = {
            "spot_check_learned": learned.mean,
            "spot_check_real": reality.mean,
            "spot_check_episodes": len(seeds),
            "spot_check_gap": gap,
            "spot_check_steps": self.real_steps,
        }
        says = f"it earns {learned.mean:.4g} in its twin and {reality.mean:.4g} in reality ({len(seeds)} episodes)"
        if self._interval is None:
            return measures, _finding("spot_check", gap, self.config.gap, says)
        low, high = self._interval(learned.mean)
        measures |= {"promise_low": float(low), "promise_high": float(high)}
        # A few episodes are not the mean: only what lies below with all its uncertainty counts.
        short = float(low) - reality.mean - half_width(reality.values)
        return measures, _finding("spot_check", short, 0.0, f"{says}, where {low:.4g} was promised")

    # -- telling -------------------------------------------------------------------------------------------------

    def _tell(self, measures: JSON, findings: list[JSON]) -> list[JSON]:
        known = set(self.signals)
        findings = [{"step": self.num_timesteps} | finding for finding in findings]
        self.findings += findings
        self.checks.append(measures)
        for name, value in measures.items():
            if name != "step" and value is not None:
                self.logger.record(f"alarm/{name}", value)
        self.logger.record("alarm/findings", len(self.findings))
        for finding in findings:
            if finding["signal"] not in known:
                warnings.warn(
                    f"after {self.num_timesteps} learned steps the policy may exploit its twin "
                    f"({finding['signal']}): {finding['says']}",
                    ExploitationWarning,
                    stacklevel=2,
                )
        return findings


def _reward(own: Lived, config: AlarmConfig) -> JSON | None:
    share = own.odd_rewards
    return _finding(
        "reward",
        share,
        config.reward_share,
        f"{share or 0:.0%} of its rewards are none of the data's",
    )


def _uncertainty(own: Lived, config: AlarmConfig) -> JSON | None:
    # No rise is asked for: good policies, too, go where twins are less certain than at their first, random steps.
    share = own.returns.past_threshold
    return _finding(
        "uncertainty",
        share,
        config.uncertain_share,
        f"{share or 0:.0%} of its steps are more uncertain than any of the data's",
    )


def _frozen(own: Lived, least: float) -> JSON | None:
    if own.motion is None or own.motion >= least:
        return None
    says = f"a step changes {own.motion:.2%} of the data's range where {least:.2%} is the least to expect"
    return {"signal": "frozen", "value": own.motion, "limit": least, "says": says}


def _finding(signal: str, value: float | None, limit: float, says: str) -> JSON | None:
    """A finding where `value` is above its limit."""
    if value is None or not value > limit:
        return None
    return {"signal": signal, "value": value, "limit": limit, "says": says}


def _named(prefix: str, tree: JSON) -> JSON:
    return {f"{prefix}_{name}": value for name, value in tree.items()}


def _check_judge(judge: Twin, twin: Twin) -> None:
    check_horizon(judge)
    advice = "fit both to the same episodes"
    check_same_spaces(judge.spec, twin.spec, called="the judge's {}", advice=advice)
