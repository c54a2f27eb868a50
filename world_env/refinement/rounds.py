"""Rounds of a refinement: collect data, fit a twin, train policies in it, select a policy."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from world_env.atomic_io import write_json
from world_env.collection.collect import collect
from world_env.collection.config import CollectConfig
from world_env.data.store import EpisodeStore
from world_env.errors import StageError
from world_env.fitting.fit import fit_episodes
from world_env.metrics import MetricsWriter
from world_env.policies.config import (
    ExplorationConfig,
    PolicyExploration,
    policies_of,
    with_folders,
)
from world_env.policies.loading import as_policy
from world_env.policies.saved_policy import load_policy, policy_card
from world_env.policy_evaluation.return_prediction import learned_returns
from world_env.refinement.config import RESTART, RefineConfig
from world_env.refinement.policy_selection import (
    best_of,
    estimate_return,
    predicted_return,
    real_evaluation,
    returns_of,
)
from world_env.results.provenance import Provenance
from world_env.results.round_log import RealEvaluation, RoundLog
from world_env.rl.learn import learn
from world_env.seeding import SeedPurpose, derived_seed
from world_env.spec import WorldSpec
from world_env.twin.twin import Twin
from world_env.types import JSON

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from world_env.data.episode import Episode
    from world_env.real.step_ledger import Purpose, StepLedger
    from world_env.rl.config import LearnConfig
    from world_env.simulation.config import OnUncertain
    from world_env.twin.twin import KnownFunction

Report = Callable[[str, int, int, JSON], None]
"""Progress callback: (stage, steps done, steps in total, values to log)."""
CHECKPOINT = ".fit.pt"
_ROUNDS_KEPT = 10
"""Latest rounds whose twins and policies stay on disk. Policies with real evaluation episodes stay too."""
_POLICIES_KEPT = 20
"""Policies, spread evenly over the rounds, that stay too: with them the learning curve can be measured."""
_BEST_EVALUATED = 3
"""Policies with the largest returns in real evaluation episodes that each choice compares."""
_PREDICTION_EPISODES = 100
"""Learned episodes of a predicted return."""


class Known(TypedDict):
    """Known functions of every twin, as in `fit_episodes`."""

    reward_fn: KnownFunction | None
    termination_fn: KnownFunction | None


@dataclass(frozen=True)
class Round:
    """Result of one round: its twin, and the policy that was selected in it.

    policy_folder: folder of the selected policy, trained in this round or an earlier one.
    real_steps: real steps of all rounds so far. learned_steps: training steps of all policies so far that can be
        selected. seconds: stage -> duration.
    log: as in the round's `round.json`. known: known functions of the twin.
    """

    number: int
    twin_folder: Path
    policy_folder: Path
    real_steps: int
    learned_steps: int
    seconds: dict[str, float]
    log: RoundLog
    known: Known

    @cached_property
    def twin(self) -> Twin:
        """The twin. Raises TwinNotFoundError for one of many rounds, of which only the latest ones are kept."""
        return Twin.load(self.twin_folder, **self.known)

    @cached_property
    def policy(self) -> BaseAlgorithm:
        """The selected policy. Raises StageError where it was removed."""
        return load_policy(self.policy_folder)


def episodes_of_rounds(out: Path, number: int) -> list[Episode]:
    """Load the real episodes of all rounds up to round `number`: the data of its twin."""
    return [e for n in range(number + 1) for e in episodes_of_round(out / f"round-{n}")]


def episodes_of_round(folder: Path) -> list[Episode]:
    """Load the real episodes of one round from its folder."""
    stores = [folder / name for name in ("checks", "data")]
    return [e for store in stores if EpisodeStore.exists(store) for e in EpisodeStore(store).load()]


def selected_policy(out: Path, number: int) -> Path:
    """Folder of the policy that was selected in round `number`."""
    return out / read_log(out / f"round-{number}").chosen


def read_log(folder: Path) -> RoundLog:
    """Read the log of a finished round from its folder. Raises StageError for a log of another form."""
    path = folder / "round.json"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return RoundLog.from_json(tree, where=str(path), error=StageError)
    except (OSError, ValueError, StageError) as error:
        raise StageError(
            f"{path} cannot be read ({error}): the file is missing, was edited, or is of another version. Restore it, "
            "or choose another folder"
        ) from error


@dataclass
class Rounds:
    """State of a refinement: the finished rounds, their episodes and their policies."""

    config: RefineConfig
    ledger: StepLedger
    report: Report
    known: Known
    spec: WorldSpec
    rounds: list[Round] = field(default_factory=list)
    episodes: list[Episode] = field(default_factory=list)
    policies: dict[str, Path] = field(default_factory=dict)
    """Name -> folder of every policy that can be selected."""
    learned_steps: int = 0

    def next_round(self) -> bool:
        """Run the next round, or load it if it is finished. Returns False if there is none."""
        number = len(self.rounds)
        if number == self.config.rounds or self._stale():
            return False
        folder = Path(self.config.out) / f"round-{number}"
        log = self._finished(folder) if (folder / "round.json").is_file() else self._run(folder)
        self.rounds.append(
            Round(
                number=number,
                twin_folder=folder / "twin",
                policy_folder=Path(self.config.out) / log.chosen,
                real_steps=log.real_steps,
                learned_steps=log.learned_steps,
                seconds=log.seconds,
                log=log,
                known=self.known,
            )
        )
        self._remove_old()
        return True

    def _finished(self, folder: Path) -> RoundLog:
        """Load the episodes, the policies and the log of a finished round."""
        log = read_log(folder)
        self.episodes += episodes_of_round(folder)
        for policy in (folder / "policy", folder / f"policy-{RESTART}"):
            if (policy / "policy.json").is_file():
                self.policies[f"{folder.name}/{policy.name}"] = policy
        self.learned_steps = log.learned_steps
        return log

    def _run(self, folder: Path) -> RoundLog:
        """Collect, fit, learn and select. Finished stages of an interrupted round are skipped."""
        number, last = len(self.rounds), self.rounds[-1] if self.rounds else None
        clock = [time.perf_counter()]
        evaluated = self._collect(number, folder, last)
        clock.append(time.perf_counter())
        twin = self._twin(number, folder / "twin", last)
        clock.append(time.perf_counter())
        warm_start = None if last is None or not self.config.warm_start else _newest(last)
        self._learn(folder / "policy", twin, self.config.learn_of(number), warm_start)
        if RESTART in self.config.kinds_of(number):
            self._learn(folder / f"policy-{RESTART}", twin, self.config.restart_learn(number), None)
        clock.append(time.perf_counter())
        return self._log(number, folder, twin, evaluated, clock)

    def _remove_old(self) -> None:
        """Remove twins and policies that no later round uses: many short rounds would fill the disk."""
        used = {self.rounds[-1].log.chosen, *returns_of(self._evaluations())}
        every = max(1, self.config.rounds // _POLICIES_KEPT)
        for old in self.rounds[:-_ROUNDS_KEPT]:
            shutil.rmtree(old.twin_folder, ignore_errors=True)
            if old.number % every == 0:
                continue
            for name in [name for name in self.policies if name.startswith(f"round-{old.number}/")]:
                if name not in used:
                    shutil.rmtree(self.policies.pop(name), ignore_errors=True)

    def _evaluations(self, newest: RealEvaluation | None = None) -> list[RealEvaluation]:
        """Real evaluations of all rounds, oldest first. newest: that of the round that is running."""
        found = [*(done.log.reality for done in self.rounds), newest]
        return [each for each in found if each is not None]

    def _log(
        self,
        number: int,
        folder: Path,
        twin: Twin,
        evaluated: RealEvaluation | None,
        clock: list[float],
    ) -> RoundLog:
        """Select a policy, and write the round's log."""
        choice = self._choose(twin, evaluated)
        clock.append(time.perf_counter())
        names = ("collect", "fit", "learn", "choose")
        log = RoundLog(
            round=number,
            real_steps=sum(map(len, self.episodes)),
            learned_steps=self.learned_steps,
            **choice,
            reality=evaluated,
            seconds={n: round(clock[i + 1] - clock[i], 1) for i, n in enumerate(names)},
        )
        write_json(folder / "round.json", log.to_json())
        with MetricsWriter(self.config.tensorboard, "refine") as metrics:
            predicted = log.predicted_return
            values = {
                "real_steps": log.real_steps,
                "learned_steps": log.learned_steps,
                "predicted_return": None if predicted is None else predicted.mean,
            }
            metrics.write(number, values)
            if evaluated is not None:
                metrics.write(evaluated.round, {"real_return": statistics.fmean(evaluated.returns)})
        return log

    def _board(self, folder: Path) -> Path | None:
        """Subfolder of the TensorBoard logs for a twin or a policy of a round."""
        board = self.config.tensorboard
        return board and board / folder.parent.name / folder.name

    def _stale(self) -> bool:
        """Whether the same policy was selected in each of the last `patience` rounds."""
        patience = self.config.patience
        if patience is None:
            return False
        chosen = [each.policy_folder for each in self.rounds[-patience - 1 :]]
        return len(chosen) > patience and len(set(chosen)) == 1

    def _collect(self, number: int, folder: Path, last: Round | None) -> RealEvaluation | None:
        """Collect the round's data. Returns the result of the real evaluation episodes."""
        config = self.config
        share = config.steps_after(number) - config.steps_after(number - 1)
        checks = config.checks_of(number, self.spec.horizon)
        evaluated: RealEvaluation | None = None
        exploration = config.exploration
        if last is not None:
            if checks:
                contender = str(self.policies[last.log.contender])
                greedy = PolicyExploration(path=contender, deterministic=True)
                episodes = self._play(folder / "checks", checks, greedy, number, "evaluate")
                evaluated = real_evaluation(episodes, self.spec.horizon, last.log)
            folders = {"selected": last.policy_folder, "newest": _newest(last)}
            exploration = with_folders(config.later_exploration, folders | self._explorers(last))
        # A round of one evaluation episode has no other data.
        if share > checks:
            self._play(folder / "data", share - checks, exploration, number, "collect")
        return evaluated

    def _play(
        self, out: Path, steps: int, exploration: ExplorationConfig, number: int, purpose: Purpose
    ) -> list[Episode]:
        part = SeedPurpose.ROUND_CHECKS if purpose == "evaluate" else SeedPurpose.ROUND_DATA
        store = collect(
            CollectConfig(
                self.config.real,
                out,
                steps,
                exploration,
                seed=derived_seed(self.config.seed, part, number),
                purpose=purpose,
            ),
            ledger=self.ledger,
            progress=lambda done, wanted: self.report("collect", done, wanted, {}),
            on_issues=None,  # the fit of the round checks the data of all rounds
        )
        episodes = store.load()
        self.episodes += episodes
        return episodes

    def _explorers(self, last: Round) -> dict[str, Path]:
        """Name -> folder of the explorers of the last twin. Those in `later_exploration` are trained."""
        folders = {
            name: last.twin_folder.with_name(f"policy-{name}") for name in self.config.explorers
        }
        for name, folder in folders.items():
            if name in policies_of(self.config.later_exploration):
                learning = self.config.explorer(name, last.number)
                learn(
                    last.twin,
                    learning,
                    out=folder,
                    progress=partial(self.report, "learn"),
                    tensorboard=self._board(folder),
                )
        return folders

    def _twin(self, number: int, out: Path, last: Round | None) -> Twin:
        config, older = self.config, None
        if (out / "twin.json").is_file():
            return Twin.load(out, **self.known)
        if last is not None and config.warm_start:
            older = Twin.load(last.twin_folder, **self.known)
        checkpoint = out.parent / f".{out.name}{CHECKPOINT}"
        # Only twins that stay on disk are measured in full. Bad data must stop the first round.
        draft = number < config.rounds - _ROUNDS_KEPT
        # Provenance names later policies by their role: a folder is local to one machine.
        explorations = [config.exploration, *([config.later_exploration] if number else [])]
        twin = fit_episodes(
            self.episodes,
            self.spec,
            config.fit_of(number),
            provenance=Provenance(
                real=config.real,
                exploration=[each.to_json() for each in explorations],
                real_steps=sum(map(len, self.episodes)),
                seeds=[config.seed],
            ),
            progress=partial(self.report, "fit"),
            tensorboard=self._board(out),
            checkpoint=checkpoint,
            warm_start=older,
            issues=[] if draft and number else None,
            draft=draft,
            **self.known,
        )
        twin.save(out)
        checkpoint.unlink(missing_ok=True)
        return Twin.load(out, **self.known)

    def _learn(self, out: Path, twin: Twin, learning: LearnConfig, warm_start: Path | None) -> None:
        """Train a policy that can be selected."""
        learn(
            twin,
            learning,
            out=out,
            warm_start=warm_start,
            progress=partial(self.report, "learn"),
            tensorboard=self._board(out),
        )
        self.learned_steps += policy_card(out).provenance["learn"]["done"]
        self.policies[f"{out.parent.name}/{out.name}"] = out

    def _choose(self, twin: Twin, evaluated: RealEvaluation | None) -> JSON:
        """Select a policy. Returns the entries of the round's log about policies.

        Estimates take time. Where only the newest policy collects, they are made before real evaluation episodes and
        after the last round only; until then the newest policy is selected.
        """
        number, newest = len(self.rounds), f"round-{len(self.rounds)}/policy"
        config = self.config
        used = "selected" in policies_of(config.later_exploration) or config.patience is not None
        last = number + 1 == config.rounds
        if not used and not last and not config.checks_of(number + 1, self.spec.horizon):
            return {
                "estimates": {},
                "chosen": newest,
                "contender": newest,
                "predicted_return": None,
                "expected": None,
            }
        checks = self._evaluations(evaluated)
        learning = self.config.learn
        rule = learning.simulation.rule(twin.spec)
        # A truncated episode has no comparable return.
        rule = "ignore" if rule == "truncate" else rule
        names = self._compared(checks)
        estimates = {}
        for name in names if len(names) > 1 else []:
            estimates[name] = self._estimate(self.policies[name], twin, rule)
        goes_on, discounted = self._goes_on(twin, rule, learning.discount)
        newest = f"round-{len(self.rounds)}/{goes_on}"
        chosen, contender = best_of(estimates, checks, newest) if estimates else (newest, newest)
        predicted, expected = None, None
        if self.spec.horizon is not None:  # without a time limit there is one round
            policy = as_policy(self.policies[chosen])
            learned = learned_returns(policy, twin, _PREDICTION_EPISODES, seed=self.config.seed)
            predicted = predicted_return(learned, returns_of(checks).get(chosen, []), checks)
            expected = estimates.get(contender, learned.mean)
        return {
            "estimates": estimates,
            "chosen": chosen,
            "goes_on": goes_on,
            "discounted": discounted,
            "contender": contender,
            "predicted_return": predicted,
            "expected": expected,
        }

    def _goes_on(
        self, twin: Twin, rule: OnUncertain, discount: float
    ) -> tuple[str, dict[str, float]]:
        """(the round's newest policy, name -> discounted learned return of the policies compared for it).

        The discounted return is the training objective. In a local optimum, the undiscounted return of the
        warm-started policy can exceed that of a restart that is better by the objective.
        """
        if RESTART not in self.config.kinds_of(len(self.rounds)):
            return "policy", {}
        folder = Path(self.config.out) / f"round-{len(self.rounds)}"
        found = {
            name: self._estimate(folder / name, twin, rule, discount)
            for name in ("policy", f"policy-{RESTART}")
        }
        return max(found, key=found.__getitem__), found

    def _estimate(
        self, policy: Path, twin: Twin, rule: OnUncertain, discount: float = 1.0
    ) -> float:
        """Learned return of the policy in a folder."""
        seed = self.config.seed
        return estimate_return(
            as_policy(policy), twin, on_uncertain=rule, seed=seed, discount=discount
        )

    def _compared(self, checks: Sequence[RealEvaluation]) -> list[str]:
        """Policies to select from: the newest, the last selected one, the last contender, the best in real episodes."""
        own = len(self.config.kinds_of(len(self.rounds)))
        wanted = set(list(self.policies)[-max(own, self.config.max_candidates) :])
        if self.rounds:
            wanted |= {self.rounds[-1].log.chosen, self.rounds[-1].log.contender}
        real = {name: statistics.fmean(returns) for name, returns in returns_of(checks).items()}
        wanted |= {*sorted(real, key=real.__getitem__)[-_BEST_EVALUATED:]}
        return [name for name in self.policies if name in wanted]


def _newest(last: Round) -> Path:
    """Folder of a round's newest policy: the warm-started one, or its restart."""
    return last.twin_folder.with_name(last.log.goes_on)
