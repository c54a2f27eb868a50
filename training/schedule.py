"""What each round of a refinement does: how many real steps, which fit, which learning."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from training.fit import FitConfig, updates_for
from training.learn import LearnConfig
from training.real import RealConfig
from training.tasks import Task
from world_env.errors import InvalidOptionError
from world_env.spec import JSON

CANDIDATES = ("warm", "newest", "fresh")
_JUDGE_SEED = 50_000


@dataclass(frozen=True)
class RefineConfig:
    """Rounds of collecting, fitting and learning. One round is the plain pipeline."""

    real: RealConfig
    out: Path
    """Folder of all rounds; running again goes on where the last run stopped."""
    steps: int = 2_000
    """Real steps in all, shared evenly among the rounds."""
    rounds: int = 1
    """How often data is collected."""
    exploration: str = "random"
    """Who acts in the first round."""
    later_exploration: str = "policy:{policy}"
    """Who acts later; {policy} is the chosen policy's folder, {newest} that of the last round's first candidate, chosen
    or not, {early} and {middle} are stages of it: what it was after a tenth and after a third of its steps. Stages fail
    where the last policy does not go any more; with stuck sensors ("stuck:0.5:{policy}") it goes where it never wanted
    to. The others are trained anew in the newest twin, from other first weights: {fresh} for the task, so that the data
    knows more than one way to do it; {bold} too, but without fear of what the twin does not know ("truncate"), so that
    the data shows what is wrong with the best that it promises; {curious} to be where it is least certain."""
    spot_checks: float = 0.2
    """Share of a later round's real steps that the chosen policy plays without noise, at least one episode where that
    is at most half of them: what it earns stands beside what was promised, and is data like all other."""
    first_steps: int | None = None
    """Real steps of the first round; None: as many as of every other one. Later rounds can be many and small."""
    warm_start: bool = False
    """Whether models of a round go on from the last round's, and so does its policy, instead of beginning anew."""
    candidates: tuple[str, ...] = ("warm",)
    """Policies that each round trains to choose from: "warm" goes on from the chosen one, "newest" from the last
    round's first candidate, chosen or not, "fresh" begins anew. The first round, and rounds without `warm_start`, have
    only a fresh one."""
    judge: bool = False
    """Whether each round fits a second twin with another seed, in which no policy trains: it ends trainings that no
    longer help there, and what it thinks of a policy counts where policies are chosen."""
    patience: int = 5
    """Rounds without another choice of policy after which the rest of the budget is kept."""
    later_updates: int | None = None
    """Updates of the later rounds' fits; None: as `fit` says. A fit that goes on needs fewer."""
    later_learn_steps: int | None = None
    """Learned steps of the later rounds; None: as many as the first one's."""
    seed: int = 0
    fit: FitConfig = field(default_factory=FitConfig)
    learn: LearnConfig = field(default_factory=LearnConfig)

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.steps < self.rounds or self.patience < 1:
            raise InvalidOptionError(
                f"{self.steps} steps in {self.rounds} rounds, patience {self.patience}: expected at least 1 of each"
            )
        if (
            self.first_steps is not None
            and not 1 <= self.first_steps <= self.steps - self.rounds + 1
        ):
            raise InvalidOptionError(
                f"{self.first_steps} of {self.steps} steps in the first of {self.rounds} rounds: expected at least 1 "
                "in each of them"
            )
        if not self.candidates or not set(self.candidates) <= set(CANDIDATES):
            raise InvalidOptionError(
                f"candidates are {self.candidates}, expected one or more of {', '.join(CANDIDATES)}"
            )
        if not 0.0 <= self.spot_checks <= 0.5:
            raise InvalidOptionError(
                f"spot_checks is {self.spot_checks}, expected a share in 0..0.5"
            )

    def settings(self) -> JSON:
        """What rounds of one refinement have in common besides data, fits and trainings, which know their own."""
        names = ("exploration", "later_exploration", "spot_checks", "candidates", "judge", "seed")
        tree: JSON = json.loads(json.dumps({name: getattr(self, name) for name in names}))
        return tree

    def steps_after(self, number: int) -> int:
        """Real steps that have been collected when round `number` (from 0) is; 0 before the first."""
        if number < 0 or self.first_steps is None or self.rounds == 1:
            return self.steps * (number + 1) // self.rounds
        return self.first_steps + (self.steps - self.first_steps) * number // (self.rounds - 1)

    def checks_of(self, number: int, horizon: int | None) -> int:
        """Real steps of round `number` that are spot checks."""
        share = self.steps_after(number) - self.steps_after(number - 1)
        if number == 0 or self.spot_checks == 0.0:
            return 0
        return min(share // 2, max(int(self.spot_checks * share), horizon or 0))

    def fit_of(self, number: int, name: str = "twin") -> FitConfig:
        """The fit of round `number`'s twin or judge, with this run's seed."""
        later = self.later_updates if number else None
        updates = later or self.fit.updates or updates_for(self.steps_after(number))
        seed = self.seed + (_JUDGE_SEED if name == "judge" else 0)
        return dataclasses.replace(self.fit, seed=seed, updates=updates)

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
        candidates=task.candidates,
        seed=seed,
        fit=FitConfig(updates=task.updates),
        learn=LearnConfig(
            steps=task.learn_steps, options=task.options, on_uncertain=task.on_uncertain, seed=seed
        ),
    )
