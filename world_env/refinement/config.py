"""What each round of a refinement does: how many real steps, which fit, which learning."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter

from gymnasium import spaces

from world_env.errors import InvalidOptionError
from world_env.fitting.config import FitConfig, updates_for
from world_env.rl.config import LearnConfig
from world_env.spec import EnvConfig, WorldSpec
from world_env.types import JSON

ALGOS = ("PPO", "SAC")
"""Those that `refine_task` has a configuration for."""
CANDIDATES = ("warm", "newest", "fresh")
RESTART = "restart"
"""What a candidate is called that begins anew beside those of every round."""
PLACEHOLDERS = ("policy", "newest", "early", "middle")
_JUDGE_SEED = 50_000
_EXPLORERS_SEED = 1_000


@dataclass(frozen=True)
class RefineConfig:
    """Rounds of collecting, fitting and learning. One round is the plain pipeline."""

    real: EnvConfig
    out: Path
    """Folder of all rounds; running again goes on where the last run stopped."""
    steps: int = 2_000
    """Real steps in all, shared evenly among the rounds."""
    rounds: int = 1
    """How often data is collected."""
    exploration: str = "random"
    """Who acts in the first round."""
    later_exploration: str = "policy:{policy}"
    """Who acts later; {policy} is the chosen policy's folder, {newest} that of the last round's policy that goes on,
    chosen or not, {early} and {middle} are stages of it: what it was after a tenth and after a third of its steps, and
    every explorer's name is that of its folder. Stages fail where the last policy does not go any more; with stuck
    sensors ("stuck:0.5:{policy}") it goes where it never wanted to."""
    explorers: JSON = field(default_factory=dict)
    """More policies that only collect, trained from other first weights in each round's twin: name -> fields of
    LearnConfig that differ. {"fresh": {}} does the task in another way. {"hasty": {"options": {"gamma": 0.99}}}
    discounts more and leaps; who discounts less survives, and the twin learns of both. {"bold": {"on_uncertain":
    "truncate"}} does not fear what the twin does not know, so that the data shows what is wrong with the best that it
    promises. {"curious": {"reward": "uncertainty", "on_uncertain": "ignore"}} seeks where the twin is least certain."""
    spot_checks: float = 0.2
    """Share of the later rounds' real steps that the policy plays without noise that may be the best one, put off until
    it is enough for a whole episode: what it earns stands beside what was predicted, counts in the next choice, and is
    data like all other."""
    first_steps: int | None = None
    """Real steps of the first round; None: as many as of every other one. Later rounds can be many and small."""
    warm_start: bool = False
    """Whether models of a round go on from the last round's, and so does its policy, instead of beginning anew."""
    candidates: tuple[str, ...] = ("warm",)
    """Policies that each round trains to choose from: "warm" goes on from the chosen one, "newest" from the last
    round's first candidate or its restart, chosen or not, "fresh" begins anew. The first round, and rounds without
    `warm_start`, have only a fresh one."""
    restart_every: int | None = None
    """So many rounds apart one more candidate begins anew, with `restart_steps`; where its discounted return in the
    twin is more than the first candidate's, it is the newest from then on. From some resting places no way
    leads up, and what has learned on little data keeps to that [resets: Nikishin et al. 2022, arXiv:2205.07802].
    None: never."""
    restart_steps: int = 1_000_000
    """Learned steps of such a candidate."""
    judge: bool = False
    """Whether each round fits a second twin with another seed, in which no policy trains: it ends trainings that no
    longer help there, and what it thinks of a policy counts where policies are chosen."""
    compared: int = 8
    """Newest policies that each round chooses among, all of its own at least, with the last choice."""
    patience: int | None = 5
    """Rounds without another choice of policy after which the rest of the budget is kept; None: it is spent."""
    later_updates: int | None = None
    """Updates of the later rounds' fits; None: as `fit` says. A fit that goes on needs fewer."""
    explorer_steps: int | None = None
    """Learned steps of policies that only collect; None: as many as of the others."""
    last_learn: JSON = field(default_factory=dict)
    """Fields of LearnConfig that differ in the last rounds, where a policy should settle; explorers stay as they are.
    {"options": {"n_steps": 256}}: what happens once in many steps is learned from longer rollouts."""
    last_share: float = 0.4
    """Share of the rounds that are the last ones."""
    seed: int = 0
    fit: FitConfig = field(default_factory=FitConfig)
    learn: LearnConfig = field(default_factory=LearnConfig)

    def __post_init__(self) -> None:
        patience = self.rounds if self.patience is None else self.patience
        if min(self.rounds, patience, self.compared) < 1 or self.steps < self.rounds:
            raise InvalidOptionError(
                f"{self.steps} steps in {self.rounds} rounds, patience {self.patience}, compared {self.compared}: "
                "expected at least 1 of each"
            )
        if (
            self.first_steps is not None
            and not 1 <= self.first_steps <= self.steps - self.rounds + 1
        ):
            raise InvalidOptionError(
                f"{self.first_steps} of {self.steps} steps in the first of {self.rounds} rounds: expected at least 1 "
                "in each of them"
            )
        if self.restart_every is not None and min(self.restart_every, self.restart_steps) < 1:
            raise InvalidOptionError(
                f"a restart every {self.restart_every} rounds with {self.restart_steps} steps: expected at least 1 of "
                "each"
            )
        if self.restart_every is not None and not (self.warm_start and "newest" in self.candidates):
            raise InvalidOptionError(
                f"restart_every is {self.restart_every} with the candidates {self.candidates}, warm_start "
                f'{self.warm_start}: a restart becomes the newest policy, so add "newest" to the candidates and set '
                "warm_start"
            )
        if not self.candidates or not set(self.candidates) <= set(CANDIDATES):
            raise InvalidOptionError(
                f"candidates are {self.candidates}, expected one or more of {', '.join(CANDIDATES)}"
            )
        for name in self.explorers:
            # Their folders are those of other policies.
            taken = (*PLACEHOLDERS, *self.candidates[1:], RESTART, "kept")
            if not name.isidentifier() or name in taken:
                raise InvalidOptionError(
                    f"an explorer is called {name!r}: expected a word other than {', '.join(taken)}"
                )
            self.explorer(name, 0)  # refused here rather than after a round
        self._check_names()
        _with_fields(self.learn, self.last_learn, "last_learn")
        if not 0.0 <= self.last_share <= 1.0:
            raise InvalidOptionError(f"last_share is {self.last_share}, expected a share in 0..1")
        if self.last_learn and self._last_rounds == 0:
            raise InvalidOptionError(
                f"last_learn is given, but of {self.rounds} rounds a share of {self.last_share} is none: give a larger "
                "last_share"
            )
        if not 0.0 <= self.spot_checks <= 0.5:
            raise InvalidOptionError(
                f"spot_checks is {self.spot_checks}, expected a share in 0..0.5"
            )

    @property
    def _last_rounds(self) -> int:
        return round(self.last_share * self.rounds)

    def _check_names(self) -> None:
        """Raises InvalidOptionError for placeholders in `later_exploration` that stand for nothing."""
        known = (*PLACEHOLDERS, *self.explorers)
        try:
            names = [name for _, name, _, _ in Formatter().parse(self.later_exploration)]
        except ValueError as error:
            raise InvalidOptionError(
                f"later_exploration is {self.later_exploration!r}, where a brace has no partner ({error}): write "
                "names as {policy}"
            ) from error
        for asked in names:
            if asked is not None and asked not in known:
                raise InvalidOptionError(
                    f"later_exploration names {{{asked}}}, expected one of {', '.join(known)}; other names "
                    "are those of `explorers`"
                )

    def settings(self) -> JSON:
        """What rounds of one refinement have in common besides data, fits and trainings, which know their own."""
        names = (
            *("exploration", "later_exploration", "explorers", "spot_checks", "candidates"),
            *("restart_every", "restart_steps", "compared", "judge", "seed"),
        )
        tree: JSON = json.loads(json.dumps({name: getattr(self, name) for name in names}))
        return tree

    def steps_after(self, number: int) -> int:
        """Real steps that have been collected when round `number` (from 0) is; 0 before the first."""
        if number < 0 or self.first_steps is None or self.rounds == 1:
            return self.steps * (number + 1) // self.rounds
        return self.first_steps + (self.steps - self.first_steps) * number // (self.rounds - 1)

    def checks_of(self, number: int, horizon: int | None) -> int:
        """Real steps of round `number` that are spot checks."""
        spent, now = 0, 0
        for each in range(1, number + 1):
            share = self.steps_after(each) - self.steps_after(each - 1)
            saved = int(self.spot_checks * (self.steps_after(each) - self.steps_after(0))) - spent
            # An episode that no round has room for is cut.
            whole = horizon or 1
            now = saved if saved >= (whole if whole <= share else share // 2) else 0
            spent += now
        return now

    def fit_of(self, number: int, name: str = "twin") -> FitConfig:
        """The fit of round `number`'s twin or judge, with this run's seed."""
        later = self.later_updates if number else None
        updates = later or self.fit.updates or updates_for(self.steps_after(number))
        seed = self.seed + (_JUDGE_SEED if name == "judge" else 0)
        return dataclasses.replace(self.fit, seed=seed, updates=updates)

    def explorer(self, name: str, number: int) -> LearnConfig:
        """How the explorer of this name is trained in round `number`'s twin.

        Raises InvalidOptionError for fields that LearnConfig does not have.
        """
        seed = 1000 * self.seed + _EXPLORERS_SEED + 50 * sorted(self.explorers).index(name) + number
        own = dataclasses.replace(
            self.learn, seed=seed, steps=self.explorer_steps or self.learn.steps
        )
        return _with_fields(own, self.explorers[name], f"the explorer {name!r}")

    def kinds_of(self, number: int) -> tuple[str, ...]:
        """The candidates of round `number`; the restart, where there is one, comes last."""
        if number == 0 or not self.warm_start:
            return ("fresh",)
        again = self.restart_every is not None and number % self.restart_every == 0
        return (*self.candidates, RESTART) if again else self.candidates

    def learn_of(self, number: int) -> LearnConfig:
        """The learning of round `number`, with this run's seed."""
        own = dataclasses.replace(self.learn, seed=self.seed)
        last = number >= self.rounds - self._last_rounds
        return _with_fields(own, self.last_learn, "last_learn") if last else own


def _with_fields(config: LearnConfig, fields: JSON, what: str) -> LearnConfig:
    """A configuration with other fields; of `options` only those that are named differ. Raises InvalidOptionError."""
    try:
        options = config.options | fields.get("options", {})
        return dataclasses.replace(config, **fields | {"options": options})
    except TypeError as error:
        raise InvalidOptionError(
            f"{what} has the fields {sorted(fields)}, expected those of LearnConfig: {error}"
        ) from error


def check_actions(algo: str, spec: WorldSpec) -> None:
    """Raises InvalidOptionError where an algorithm of `ALGOS` has no use for these actions."""
    if algo == "SAC" and not isinstance(spec.action_space, spaces.Box):
        raise InvalidOptionError(
            f"SAC needs continuous actions, but the action space is {spec.action_space}: take PPO"
        )
