"""The rounds of a refinement: collect with the last ones' policies, fit, learn, choose."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from world_env.atomic_io import write_json
from world_env.collection.collect import collect
from world_env.collection.config import CollectConfig
from world_env.data.store import EpisodeStore
from world_env.fitting.fit import fit_episodes
from world_env.policies.saved_policy import load_policy, policy_card
from world_env.policy_evaluation.return_prediction import learned_return
from world_env.refinement.config import RESTART, RefineConfig
from world_env.refinement.keeper import Keeper, estimate
from world_env.refinement.policy_selection import (
    best_of,
    last_miss,
    returns_of,
    spot_check,
    standing,
)
from world_env.rl.callbacks import milestones
from world_env.rl.learn import learn
from world_env.rollouts.actors import policy_actor
from world_env.spec import WorldSpec
from world_env.twin.twin import Twin
from world_env.types import JSON

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback

    from world_env.data.episode import Episode
    from world_env.real.step_ledger import StepLedger
    from world_env.twin.twin import KnownFunction

Report = Callable[[str, int, int, JSON], None]
"""(stage, done, wanted, logs): called as stages advance."""
CHECKPOINT = ".fit.pt"
_CHECK_SEED = 500
_LOOKS, _LOOKS_WITHOUT = 8, 4
"""How often a judge looks at a training, and after how many looks without a better estimate it ends."""
_PREDICTION_EPISODES = 100
"""Learned episodes of a promise."""
_STAGES = {"early": 0.1, "middle": 0.3}
"""Shares of a round's learning after which its policy is kept too."""


class Known(TypedDict):
    """Known functions of every twin, as in `world_env.fitting.fit.fit_episodes`."""

    reward_fn: KnownFunction | None
    termination_fn: KnownFunction | None


@dataclass(frozen=True)
class Round:
    """What one round left: the newest twin, and of all policies so far the one that is thought best there.

    judge: the twin that no policy trains in; None without one. policy_folder: of the chosen policy, of this round or an
    earlier one. real_steps: so far. learned_steps: of all trainings so far that could be chosen from.
    log: JSON, as in the round's `round.json`: {"round", "real_steps", "learned_steps", "estimates" (policy -> what the
    twins think of it), "chosen", "goes_on" (the round's newest policy, by name), "discounted" (name -> discounted
    return, of its first candidate and its restart, where there is one), "predicted_return" (the chosen one's {"mean", "low",
    "high"}: what the twin says and what its spot checks showed; None without a time limit), "contender" (who plays the
    next round's spot checks), "expected" (what the twin says of it), "reality" (what the last round's contender earned
    in this round's spot checks, {"round", "policy", "returns", "predicted_return"}), "settings", "seconds"}.
    """

    number: int
    twin: Twin
    judge: Twin | None
    policy: BaseAlgorithm
    twin_folder: Path
    policy_folder: Path
    real_steps: int
    learned_steps: int
    seconds: dict[str, float]
    log: JSON


def episodes_until(out: Path, number: int) -> list[Episode]:
    """The real episodes of a refinement's rounds up to this one, as its twin was fitted to them."""
    stores = [out / f"round-{n}" / name for n in range(number + 1) for name in ("checks", "data")]
    return [e for store in stores if EpisodeStore.exists(store) for e in EpisodeStore(store).load()]


def chosen_until(out: Path, number: int) -> Path:
    """Folder of the policy that this round of a finished refinement chose."""
    log: JSON = json.loads((out / f"round-{number}" / "round.json").read_text(encoding="utf-8"))
    return out / log["chosen"]


@dataclass
class Rounds:
    """The rounds so far, and the next one."""

    config: RefineConfig
    ledger: StepLedger
    say: Report
    known: Known
    spec: WorldSpec
    rounds: list[Round] = field(default_factory=list)
    episodes: list[Episode] = field(default_factory=list)
    policies: dict[str, Path] = field(default_factory=dict)
    """Name -> folder of all that can be chosen from."""
    learned_steps: int = 0

    def next_round(self) -> bool:
        """Whether there was one to run."""
        number = len(self.rounds)
        if number == self.config.rounds or self._stale():
            return False
        folder = Path(self.config.out) / f"round-{number}"
        last = self.rounds[-1] if self.rounds else None
        clock = [time.perf_counter()]
        reality, exploration = self._collect(number, folder, last)
        clock.append(time.perf_counter())
        twin = self._twin(number, folder / "twin", exploration, None if last is None else last.twin)
        judge = None
        if self.config.judge:
            judge = self._twin(
                number, folder / "judge", exploration, None if last is None else last.judge
            )
        clock.append(time.perf_counter())
        for place, kind in enumerate(self.config.kinds_of(number)):
            name = f"policy-{kind}" if place else "policy"
            begin = None
            if last is not None:
                begin = {"warm": last.policy_folder, "newest": _newest(last)}.get(kind)
            self._learn(number, kind, folder / name, twin, judge, begin)
        clock.append(time.perf_counter())
        log = self._log(number, folder / "round.json", twin, judge, reality, clock)
        self.rounds.append(
            Round(
                number=number,
                twin=twin,
                judge=judge,
                policy=load_policy(self.policies[log["chosen"]]),
                twin_folder=folder / "twin",
                policy_folder=self.policies[log["chosen"]],
                real_steps=log["real_steps"],
                learned_steps=self.learned_steps,
                seconds=log["seconds"],
                log=log,
            )
        )
        return True

    def _log(
        self,
        number: int,
        path: Path,
        twin: Twin,
        judge: Twin | None,
        reality: JSON | None,
        clock: list[float],
    ) -> JSON:
        """The round's log, with the choice of a policy; what is on disk is not chosen again."""
        if path.is_file():
            found: JSON = json.loads(path.read_text(encoding="utf-8"))
            return found
        choice = self._choose(twin, judge, reality)
        clock.append(time.perf_counter())
        names = ("collect", "fit", "learn", "choose")
        log = {
            "round": number,
            "real_steps": sum(map(len, self.episodes)),
            "learned_steps": self.learned_steps,
            **choice,
            "reality": reality,
            "settings": self.config.settings(),
            "seconds": {n: round(clock[i + 1] - clock[i], 1) for i, n in enumerate(names)},
        }
        write_json(path, log)
        return log

    def _stale(self) -> bool:
        """Whether the last choices of a policy were all the same."""
        patience = self.config.patience
        if patience is None:
            return False
        chosen = [each.policy_folder for each in self.rounds[-patience - 1 :]]
        return len(chosen) > patience and len(set(chosen)) == 1

    def _collect(self, number: int, folder: Path, last: Round | None) -> tuple[JSON | None, str]:
        """(what the spot checks showed, who explored); the data of both is taken up."""
        config = self.config
        share = config.steps_after(number) - config.steps_after(number - 1)
        checks = config.checks_of(number, self.spec.horizon)
        reality: JSON | None = None
        exploration = config.exploration
        if last is not None:
            if checks:
                greedy = f"greedy:{self.policies[last.log['contender']]}"
                seen = self._play(
                    folder / "checks", checks, greedy, number + _CHECK_SEED, "spot_check"
                )
                reality = spot_check(seen, self.spec.horizon, last.number, last.log)
            exploration = config.later_exploration.format(
                policy=last.policy_folder,
                newest=_newest(last),
                **self._explorers(last),
                **_stages(_newest(last)),
            )
        self._play(folder / "data", share - checks, exploration, number, "collect")
        return reality, exploration

    def _play(
        self, out: Path, steps: int, exploration: str, number: int, purpose: str
    ) -> list[Episode]:
        store = collect(
            CollectConfig(
                self.config.real,
                out,
                steps,
                exploration,
                seed=self.config.seed * 1000 + number,
                purpose=purpose,
            ),
            ledger=self.ledger,
            progress=lambda done, wanted: self.say("collect", done, wanted, {}),
        )
        episodes = store.load()
        self.episodes += episodes
        return episodes

    def _explorers(self, last: Round) -> dict[str, Path]:
        """Name -> folder of the explorers of the last twin; those that collect are trained now."""
        folders = {
            name: last.twin_folder.with_name(f"policy-{name}") for name in self.config.explorers
        }
        for name, folder in folders.items():
            if f"{{{name}}}" in self.config.later_exploration:
                learning = self.config.explorer(name, last.number)
                learn(last.twin, learning, out=folder, progress=partial(self.say, "learn"))
        return folders

    def _twin(self, number: int, out: Path, exploration: str, older: Twin | None) -> Twin:
        config = self.config
        if (out / "twin.json").is_file():
            return Twin.load(out, **self.known)
        checkpoint = out.parent / f".{out.name}{CHECKPOINT}"
        # A policy's folder is a place on this machine; what counts is who acted.
        shown = exploration
        if exploration != config.exploration:
            plain = config.later_exploration == RefineConfig.later_exploration
            shown = "the previous round's policy" if plain else config.later_exploration
        twin = fit_episodes(
            self.episodes,
            self.spec,
            config.fit_of(number, out.name),
            provenance={
                "real": config.real.to_json(),
                "exploration": config.exploration
                if shown == exploration
                else f"{config.exploration}, then {shown}",
                "real_steps": sum(map(len, self.episodes)),
                "seed": config.seed,
            },
            progress=partial(self.say, "fit"),
            checkpoint=checkpoint,
            warm_start=older if config.warm_start else None,
            **self.known,
        )
        twin.save(out)
        checkpoint.unlink(missing_ok=True)
        return Twin.load(out, **self.known)

    def _learn(
        self,
        number: int,
        kind: str,
        out: Path,
        twin: Twin,
        judge: Twin | None,
        begin: Path | None,
    ) -> None:
        """Train one candidate."""
        learning = self.config.learn_of(number)
        if out.name != "policy":
            learning = dataclasses.replace(learning, seed=_seed(self.config, number, 500))
        if kind == RESTART:
            learning = dataclasses.replace(learning, steps=self.config.restart_steps)
        marks = {max(1, int(_STAGES[n] * learning.steps)): path for n, path in _stages(out).items()}
        callbacks: list[BaseCallback] = [milestones(marks, trained_in="learned")]
        if judge is not None:
            callbacks.append(
                Keeper(
                    [judge],
                    out.with_name(f"{out.name}-kept"),
                    every=-(-learning.steps // _LOOKS),
                    patience=_LOOKS_WITHOUT,
                    on_uncertain=learning.on_uncertain,
                    seed=self.config.seed,
                )
            )
        learn(
            twin,
            learning,
            out=out,
            warm_start=begin,
            callbacks=callbacks,
            progress=partial(self.say, "learn"),
        )
        self.learned_steps += policy_card(out)["provenance"]["learn"]["done"]
        self.policies[f"{out.parent.name}/{out.name}"] = out

    def _choose(self, twin: Twin, judge: Twin | None, reality: JSON | None) -> JSON:
        """What a round's log says of policies."""
        checks = [
            each for each in (*(done.log["reality"] for done in self.rounds), reality) if each
        ]
        twins = [twin] if judge is None else [twin, judge]
        learning = self.config.learn_of(len(self.rounds))
        rule = learning.on_uncertain
        # An episode that was cut says nothing of what it would have earned.
        rule = "ignore" if rule == "truncate" else rule
        names = self._compared(checks)
        estimates = {}
        for name in names if len(names) > 1 else []:
            estimates[name] = self._estimate(self.policies[name], twins, rule)
        goes_on, discounted = self._goes_on(twins, rule, learning.discount)
        newest = f"round-{len(self.rounds)}/{goes_on}"
        chosen, contender = best_of(estimates, checks, newest) if estimates else (newest, newest)
        promise, expected = None, None
        if self.spec.horizon is not None:  # else there is one round: nothing hangs on it
            actor = policy_actor(load_policy(self.policies[chosen]))
            said = learned_return(actor, twin, _PREDICTION_EPISODES, seed=self.config.seed)[0]
            found = standing(said, returns_of(checks).get(chosen, []), last_miss(checks))
            ends = (None, None) if found.doubt is None else (found.low, found.high)
            promise = {"mean": found.mean, "low": ends[0], "high": ends[1]}
            expected = estimates.get(contender, said)
        return {
            "estimates": estimates,
            "chosen": chosen,
            "goes_on": goes_on,
            "discounted": discounted,
            "contender": contender,
            "predicted_return": promise,
            "expected": expected,
        }

    def _goes_on(
        self, twins: Sequence[Twin], rule: str, discount: float
    ) -> tuple[str, dict[str, float]]:
        """(which of the round's policies is the newest, discounted returns of those that may be).

        These are what they learn to raise: where a policy rests that earns more without the discount, another one may
        be further on by this measure, and still fall.
        """
        if RESTART not in self.config.kinds_of(len(self.rounds)):
            return "policy", {}
        folder = Path(self.config.out) / f"round-{len(self.rounds)}"
        found = {
            name: self._estimate(folder / name, twins, rule, discount)
            for name in ("policy", f"policy-{RESTART}")
        }
        return max(found, key=found.__getitem__), found

    def _estimate(
        self, policy: Path, twins: Sequence[Twin], rule: str, discount: float = 1.0
    ) -> float:
        """What the twins think of the policy in a folder."""
        actor, seed = policy_actor(load_policy(policy)), self.config.seed
        return estimate(actor, twins, on_uncertain=rule, seed=seed, discount=discount)

    def _compared(self, checks: Sequence[JSON]) -> list[str]:
        """Policies to choose among: the newest, the last choice, who was looked at last, who was best in reality."""
        own = len(self.config.kinds_of(len(self.rounds)))
        wanted = set(list(self.policies)[-max(own, self.config.compared) :])
        if self.rounds:
            wanted |= {self.rounds[-1].log["chosen"], self.rounds[-1].log["contender"]}
        seen = {name: statistics.fmean(found) for name, found in returns_of(checks).items()}
        if seen:
            wanted.add(max(seen, key=seen.__getitem__))
        return [name for name in self.policies if name in wanted]


def _newest(last: Round) -> Path:
    """Folder of a round's newest policy: its first candidate, or its restart."""
    return last.twin_folder.with_name(last.log.get("goes_on", "policy"))


def _seed(config: RefineConfig, number: int, kind: int) -> int:
    return 1000 * config.seed + kind + number


def _stages(policy: Path) -> dict[str, Path]:
    return {name: policy.with_name(f"{policy.name}-{name}") for name in _STAGES}
