"""collect -> fit -> learn -> collect with what was learned: a twin and a policy that never saw reality train."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from training.collect import CollectConfig, collect
from training.episodes import EpisodeStore
from training.fit import FitConfig, fit_episodes, updates_for
from training.learn import LearnConfig, check_counts_from_zero, learn
from training.milestones import milestones
from training.real import RealConfig, StepLedger, spec_of
from training.tasks import Task
from world_env.errors import InvalidOptionError, StageError
from world_env.folder import read_json
from world_env.spec import JSON, WorldSpec
from world_env.twin import Twin

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from training.episodes import Episode
    from world_env.twin import KnownFunction

Report = Callable[[str, int, int, JSON], None]
"""(stage, done, wanted, logs): called as stages advance."""
_CHECKPOINT = ".twin.fit.pt"
_STAGES = {"early": 0.1, "middle": 0.3}
"""Shares of a round's learning after which its policy is kept too."""


@dataclass(frozen=True)
class RefineConfig:
    """Rounds of collecting, fitting and learning. One round is the plain pipeline."""

    real: RealConfig
    out: Path
    """Folder of all rounds; running again goes on where the last run stopped."""
    steps: int = 2_000
    """Real steps in all, shared evenly among the rounds."""
    rounds: int = 1
    """How often data is collected, each time with the newest policy."""
    exploration: str = "random"
    """Who acts in the first round."""
    later_exploration: str = "policy:{policy}"
    """Who acts later; {policy} is the newest policy's folder, {early} and {middle} are stages of it: what it was after
    a tenth and after a third of its steps. Stages fail where the last policy does not go any more; with stuck sensors
    ("stuck:0.5:{policy}") it goes where it never wanted to. {curious} and {fresh} are policies of their own, trained
    anew in the newest twin: to be where that is least certain, and for the task from other first weights, so that the
    data knows more than one way to do it."""
    first_steps: int | None = None
    """Real steps of the first round; None: as many as of every other one. Later rounds can be many and small."""
    warm_start: bool = False
    """Whether model, policy and critic of a round go on from the last round's, instead of beginning anew."""
    later_updates: int | None = None
    """Updates of the later rounds' fits; None: as `fit` says. A fit that goes on needs fewer."""
    later_learn_steps: int | None = None
    """Learned steps of the later rounds; None: as many as the first one's."""
    seed: int = 0
    fit: FitConfig = field(default_factory=FitConfig)
    learn: LearnConfig = field(default_factory=LearnConfig)

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.steps < self.rounds:
            raise InvalidOptionError(
                f"{self.steps} steps in {self.rounds} rounds: expected at least 1 of each"
            )
        if (
            self.first_steps is not None
            and not 1 <= self.first_steps <= self.steps - self.rounds + 1
        ):
            raise InvalidOptionError(
                f"{self.first_steps} of {self.steps} steps in the first of {self.rounds} rounds: expected at least 1 "
                "in each of them"
            )

    def steps_after(self, number: int) -> int:
        """Real steps that have been collected when round `number` (from 0) is; 0 before the first."""
        if number < 0 or self.first_steps is None or self.rounds == 1:
            return self.steps * (number + 1) // self.rounds
        return self.first_steps + (self.steps - self.first_steps) * number // (self.rounds - 1)

    def fit_of(self, number: int) -> FitConfig:
        """The fit of round `number`, with this run's seed."""
        later = self.later_updates if number else None
        updates = later or self.fit.updates or updates_for(self.steps_after(number))
        return dataclasses.replace(self.fit, seed=self.seed, updates=updates)

    def learn_of(self, number: int) -> LearnConfig:
        """The learning of round `number`, with this run's seed."""
        later = self.later_learn_steps
        steps = self.learn.steps if not number or later is None else later
        return dataclasses.replace(self.learn, seed=self.seed, steps=steps)


def refine_task(task: Task, real: RealConfig, out: Path, seed: int) -> RefineConfig:
    """The rounds of a task's row: the one default configuration, and what the row says."""
    return RefineConfig(
        real,
        out,
        steps=task.real_steps,
        rounds=task.rounds,
        exploration=task.exploration,
        later_exploration=task.later_exploration,
        warm_start=task.warm_start,
        seed=seed,
        fit=FitConfig(updates=task.updates),
        learn=LearnConfig(
            steps=task.learn_steps, options=task.options, on_uncertain=task.on_uncertain, seed=seed
        ),
    )


class _Known(TypedDict):
    reward_fn: KnownFunction | None
    termination_fn: KnownFunction | None


@dataclass(frozen=True)
class Round:
    """What one round left: the twin, the policy trained in it, their folders, and seconds a stage."""

    number: int
    twin: Twin
    policy: BaseAlgorithm
    twin_folder: Path
    policy_folder: Path
    real_steps: int
    seconds: dict[str, float]


def refine(
    config: RefineConfig,
    *,
    ledger: StepLedger,
    report: Report | None = None,
    reward_fn: KnownFunction | None = None,
    termination_fn: KnownFunction | None = None,
) -> list[Round]:
    """All rounds, the last one last. Every finished stage is read back instead of being run again.

    reward_fn, termination_fn: known functions of every round's twin, as in `training.fit.fit_episodes`.
    Raises StageError, before a real step is spent, where the folder holds a run of other settings.
    """
    say = report or (lambda stage, done, wanted, logs: None)
    known: _Known = {"reward_fn": reward_fn, "termination_fn": termination_fn}
    spec = spec_of(config.real)
    check_counts_from_zero(spec.action_space)  # before a real step is spent
    _check_folder(config, known)
    rounds: list[Round] = []
    episodes: list[Episode] = []
    collected = 0
    for number in range(config.rounds):
        share = config.steps_after(number) - config.steps_after(number - 1)
        exploration = config.exploration
        if rounds:
            exploration = config.later_exploration.format(
                policy=rounds[-1].policy_folder,
                **_others(config, rounds[-1], say),
                **_stages(rounds[-1].policy_folder),
            )
        folder = Path(config.out) / f"round-{number}"
        clock = [time.perf_counter()]
        store = collect(
            CollectConfig(
                config.real, folder / "data", share, exploration, seed=config.seed * 1000 + number
            ),
            ledger=ledger,
            progress=lambda done, wanted: say("collect", done, wanted, {}),
        )
        episodes += store.load()
        collected += store.steps
        clock.append(time.perf_counter())
        last = rounds[-1] if rounds and config.warm_start else None
        twin = _twin(config, number, folder, episodes, spec, exploration, known, say, last)
        clock.append(time.perf_counter())
        stages = _stages(folder / "policy")
        learning = config.learn_of(number)
        marks = {max(1, int(_STAGES[name] * learning.steps)): path for name, path in stages.items()}
        policy = learn(
            twin,
            learning,
            out=folder / "policy",
            warm_start=None if last is None else last.policy_folder,
            callbacks=[milestones(marks, trained_in="learned")],
            progress=partial(say, "learn"),
        )
        clock.append(time.perf_counter())
        seconds = {
            name: round(clock[i + 1] - clock[i], 1)
            for i, name in enumerate(("collect", "fit", "learn"))
        }
        rounds.append(
            Round(number, twin, policy, folder / "twin", folder / "policy", collected, seconds)
        )
    return rounds


def _others(config: RefineConfig, last: Round, say: Report) -> dict[str, Path]:
    """Folders of the policies trained anew in the last twin, only to collect with; trained now where asked for."""
    own = config.learn_of(last.number)
    others = {
        # Past the threshold is where it shall go: nothing is cut, and nothing scares it.
        "curious": dataclasses.replace(own, reward="uncertainty", on_uncertain="ignore"),
        "fresh": dataclasses.replace(own, seed=1000 * config.seed + 500 + last.number),
    }
    folders = {name: last.policy_folder.with_name(f"policy-{name}") for name in others}
    for name, learning in others.items():
        if f"{{{name}}}" in config.later_exploration:
            learn(
                last.twin,
                learning,
                out=folders[name],
                progress=partial(say, "learn"),
            )
    return folders


def _stages(policy: Path) -> dict[str, Path]:
    return {name: policy.with_name(f"{policy.name}-{name}") for name in _STAGES}


def _twin(
    config: RefineConfig,
    number: int,
    folder: Path,
    episodes: list[Episode],
    spec: WorldSpec,
    exploration: str,
    known: _Known,
    say: Report,
    last: Round | None,
) -> Twin:
    out = folder / "twin"
    if (out / "twin.json").is_file():
        return Twin.load(out, **known)
    checkpoint = folder / _CHECKPOINT
    # A policy's folder is a place on this machine; what counts is who acted.
    shown = exploration
    if exploration != config.exploration:
        plain = config.later_exploration == RefineConfig.later_exploration
        shown = "the previous round's policy" if plain else config.later_exploration
    twin = fit_episodes(
        episodes,
        spec,
        config.fit_of(number),
        provenance={
            "real": config.real.to_json(),
            "exploration": config.exploration
            if shown == exploration
            else f"{config.exploration}, then {shown}",
            "real_steps": sum(map(len, episodes)),
            "seed": config.seed,
        },
        progress=partial(say, "fit"),
        checkpoint=checkpoint,
        warm_start=None if last is None else last.twin,
        **known,
    )
    twin.save(out)
    checkpoint.unlink(missing_ok=True)
    return Twin.load(out, **known)


def _check_folder(config: RefineConfig, known: _Known) -> None:
    """Whether what lies in the folder is the beginning of this very run."""
    names = [name.removesuffix("_fn") for name, function in known.items() if function]
    advice = "choose another folder, or delete it to begin again"
    for number in range(config.rounds):
        folder = Path(config.out) / f"round-{number}"
        twin, wanted = folder / "twin", config.steps_after(number)
        fit = json.loads(json.dumps(dataclasses.asdict(config.fit_of(number))))
        if (twin / "twin.json").is_file():
            tree = read_json(twin)
            steps = tree["provenance"].get("steps")
            warm = "warm_start" in tree["provenance"]
            if tree["provenance"].get("fit") != fit or warm != (config.warm_start and number > 0):
                raise StageError(f"{twin} holds a twin of another configuration: {advice}")
            if tree["known"] != names:
                raise StageError(
                    f"{twin} holds a twin with the known functions {tree['known']}, this run has {names}: {advice}"
                )
        elif (folder / _CHECKPOINT).is_file() and EpisodeStore.exists(folder / "data"):
            # A killed fit: its data was complete.
            steps = EpisodeStore(folder / "data").steps + config.steps_after(number - 1)
        else:
            continue
        if steps != wanted:
            raise StageError(
                f"{folder} belongs to a run with another number of steps: after this round it had {steps}, this run "
                f"wants {wanted}. No real step was taken; {advice}"
            )
