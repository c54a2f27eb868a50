"""Rounds: selection of policies, real evaluation episodes and predicted returns, early stop."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from world_env.data.episode import Episode
from world_env.data.store import EpisodeStore
from world_env.errors import InvalidOptionError, StageError
from world_env.fitting.config import FitConfig
from world_env.policies.config import PolicyExploration
from world_env.policies.loading import as_policy
from world_env.policy_evaluation.return_prediction import learned_returns
from world_env.real.step_ledger import StepLedger
from world_env.refinement.config import RefineConfig
from world_env.refinement.policy_selection import real_evaluation
from world_env.refinement.refine import refine
from world_env.refinement.rounds import episodes_of_rounds, selected_policy
from world_env.results.round_log import RealEvaluation, RoundLog
from world_env.rl.learn import LearnConfig, learn
from world_env.spec import EnvConfig

pytestmark = pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")

MODEL = {"members": 2, "width": 8, "head_width": 8, "rollout": 2}
FIT = FitConfig(gradient_steps=10, batch_size=32, validate_every=10, model=MODEL)
LEARN = LearnConfig(
    steps=256, num_envs=8, algo_kwargs={"n_steps": 32, "batch_size": 64, "n_epochs": 1}
)


def config(out: Path, **change: Any) -> RefineConfig:
    options: dict[str, Any] = {
        "steps": 600,
        "rounds": 3,
        "real_evaluation_share": 0.5,
        "warm_start": True,
        "fit": FIT,
        "learn": LEARN,
    }
    return RefineConfig(EnvConfig("CartPole-v1"), out, **options | change)


@pytest.fixture(autouse=True)
def few_episodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("world_env.refinement.policy_selection.ESTIMATE_EPISODES", 2)
    monkeypatch.setattr("world_env.refinement.rounds._PREDICTION_EPISODES", 8)
    yield


class Thought:
    """Planned estimates of policies, one a call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
        self.values, self.asked = iter(values), 0
        self.discounts: list[float] = []
        monkeypatch.setattr("world_env.refinement.rounds.estimate_return", self)

    def __call__(self, actor: Any, twin: Any, **options: Any) -> float:
        self.asked += 1
        self.discounts.append(options.get("discount", 1.0))
        return next(self.values)


def test_the_policy_that_the_twins_think_best_acts_next_and_is_left_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Thought(monkeypatch, [9.0, 5.0, 9.0, 5.0, 8.5])
    unchecked = config(tmp_path, real_evaluation_share=0.0)
    rounds = refine(unchecked, ledger=StepLedger())
    first, last = tmp_path / "round-0" / "policy", tmp_path / "round-2" / "policy"
    # The third is thought worse than the first, but by less than such thoughts scatter.
    assert [part.policy_folder for part in rounds] == [first, first, last]
    assert [part.log.estimates for part in rounds] == [
        {},
        {"round-0/policy": 9.0, "round-1/policy": 5.0},
        {"round-0/policy": 9.0, "round-1/policy": 5.0, "round-2/policy": 8.5},
    ]
    data = EpisodeStore(tmp_path / "round-2" / "data").provenance
    assert data["exploration"] == PolicyExploration(path=str(first)).to_json()
    assert selected_policy(tmp_path, 1) == first
    # Read back: nobody is asked again.
    monkeypatch.setattr("world_env.refinement.rounds.estimate_return", None)
    again = refine(unchecked, ledger=StepLedger())
    assert [part.log for part in again] == [part.log for part in rounds]


def test_who_may_be_better_is_looked_at_and_who_is_known_to_be_good_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More is thought of the second policy than anybody can earn.
    Thought(monkeypatch, [50.0, 900.0, 50.0, 50.0, 100.0])
    rounds = refine(config(tmp_path, steps=3_000), ledger=StepLedger())
    names = [f"round-{number}/policy" for number in range(3)]
    assert [part.log.contender for part in rounds] == names
    for part, played in zip(rounds[1:], names, strict=False):
        checks = EpisodeStore(tmp_path / f"round-{part.number}" / "checks").provenance
        assert checks["exploration"] == {
            "kind": "policy",
            "path": str(tmp_path / played),
            "deterministic": True,
        }
        assert checks["purpose"] == "evaluate"
        assert part.log.reality.policy == played
    assert rounds[1].log.expected == 900.0
    # 900 was the learned return of the second and a few dozen came: now that is how far the third is believed.
    assert rounds[2].log.reality.predicted_return == 900.0
    assert rounds[2].log.chosen in names[:2]
    promise, chosen = rounds[2].log.predicted_return, rounds[2].log.chosen
    returns = [
        value
        for part in rounds[1:]
        if (seen := part.log.reality).policy == chosen
        for value in seen.returns
    ]
    miss = 900.0 - np.mean(rounds[2].log.reality.returns)
    assert promise.high - promise.mean == pytest.approx(miss / np.sqrt(1 + len(returns)))


def test_without_a_time_limit_there_is_no_step(tmp_path: Path) -> None:
    endless = EnvConfig("CartPole-v1", {"max_episode_steps": -1})
    ledger = StepLedger()
    with pytest.raises(StageError, match=r"no time limit.*--horizon STEPS"):
        refine(config(tmp_path).replace(real=endless), ledger=ledger)
    assert ledger.total() == 0


def test_newest_goes_on_and_acts_whichever_policy_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Thought(monkeypatch, [9.0, 5.0, 9.0, 5.0, 1.0])
    begun: list[Path | None] = []

    def noted(*arguments: Any, **options: Any) -> Any:
        begun.append(options["warm_start"])
        return learn(*arguments, **options)

    monkeypatch.setattr("world_env.refinement.rounds.learn", noted)
    asked = config(
        tmp_path, later_exploration=PolicyExploration(path="newest"), real_evaluation_share=0.0
    )
    rounds = refine(asked, ledger=StepLedger())
    first, second = tmp_path / "round-0" / "policy", tmp_path / "round-1" / "policy"
    assert [part.policy_folder for part in rounds] == [first] * 3
    assert begun == [None, first, second]
    data = EpisodeStore(tmp_path / "round-2" / "data").provenance
    assert data["exploration"] == PolicyExploration(path=str(second)).to_json()


@pytest.mark.parametrize(("thought", "goes_on"), [(6.0, "policy-restart"), (4.0, "policy")])
def test_a_restart_goes_on_where_its_discounted_return_is_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thought: float, goes_on: str
) -> None:
    # Without the discount the one that goes on earns more, whatever comes of the restart.
    worth = [5.0, thought, 5.0, 5.0]
    seen = Thought(monkeypatch, [9.0, 5.0, 1.0, *worth[:2], 9.0, 5.0, 1.0, *worth[2:]])
    begun: list[tuple[Path | None, int]] = []

    def noted(*arguments: Any, **options: Any) -> Any:
        begun.append((options["warm_start"], arguments[1].steps))
        return learn(*arguments, **options)

    monkeypatch.setattr("world_env.refinement.rounds.learn", noted)
    asked = config(
        tmp_path,
        steps=900,
        later_exploration=PolicyExploration(path="newest"),
        restart_every=1,
        restart_steps=512,
        max_candidates=1,
        real_evaluation_share=0.0,
    )
    rounds = refine(asked, ledger=StepLedger())
    assert seen.discounts == [1.0, 1.0, 1.0, 0.99, 0.99] * 2
    first = tmp_path / "round-0" / "policy"
    second = tmp_path / "round-1" / goes_on
    assert begun == [(None, 256), (first, 256), (None, 512), (second, 256), (None, 512)]
    assert [part.policy_folder for part in rounds] == [first] * 3
    data = EpisodeStore(tmp_path / "round-2" / "data").provenance
    assert data["exploration"] == PolicyExploration(path=str(second)).to_json()
    assert rounds[1].log.discounted == {"policy": 5.0, "policy-restart": thought}
    assert (rounds[1].log.goes_on, rounds[0].log.discounted) == (goes_on, {})


def test_rounds_of_before_restarts_go_on(tmp_path: Path) -> None:
    asked = config(tmp_path, later_exploration=PolicyExploration(path="newest"))
    wanted = refine(asked, ledger=StepLedger())[-1]
    for number in (1, 2):
        path = tmp_path / f"round-{number}" / "round.json"
        if number == 2:
            path.unlink()
            continue
        log = json.loads(path.read_text())
        del log["goes_on"], log["discounted"]
        path.write_text(json.dumps(log))
    rounds = refine(asked, ledger=StepLedger())
    assert rounds[-1].log.estimates == wanted.log.estimates
    assert rounds[-1].learned_steps == wanted.learned_steps


def test_without_patience_the_budget_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Thought(monkeypatch, [9.0] + [1.0] * 30)
    monkeypatch.setattr("world_env.refinement.rounds.best_of", lambda *_: ("round-0/policy",) * 2)
    ledger = StepLedger()
    rounds = refine(
        config(tmp_path, rounds=4, patience=None, real_evaluation_share=0.0, steps=400),
        ledger=ledger,
    )
    assert len(rounds) == 4 and ledger.by_purpose == {"collect": 400, "validate": 1}


def test_restarts_come_so_many_rounds_apart(tmp_path: Path) -> None:
    asked = config(tmp_path, rounds=6, restart_every=2)
    kinds = [asked.kinds_of(number) for number in range(6)]
    again = ("newest", "restart")
    assert kinds == [("fresh",), ("newest",), again, ("newest",), again, ("newest",)]


def test_it_is_enough_when_no_better_policy_was_found_for_some_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Thought(
        monkeypatch,
        [9.0, *[9.0, 1.0] * 1, *[9.0, 1.0, 1.0] * 1, *[9.0] + [1.0] * 3, *[9.0] * 9][1:],
    )
    ledger = StepLedger()
    rounds = refine(
        config(tmp_path, rounds=6, patience=2, real_evaluation_share=0.0), ledger=ledger
    )
    assert len(rounds) == 3
    assert {part.policy_folder for part in rounds} == {tmp_path / "round-0" / "policy"}
    assert ledger.by_purpose == {"collect": 300, "validate": 1}


def test_real_evaluations_are_counted_learned_from_and_stand_beside_the_promise(
    tmp_path: Path,
) -> None:
    ledger = StepLedger()
    rounds = refine(config(tmp_path, steps=3_000), ledger=ledger)
    assert ledger.by_purpose == {"collect": 2_000, "evaluate": 1_000, "validate": 1}
    assert [part.twin.provenance.steps for part in rounds] == [1_000, 2_000, 3_000]
    assert sum(map(len, episodes_of_rounds(tmp_path, 1))) == 2_000
    assert rounds[0].log.reality is None
    for before, part in itertools.pairwise(rounds):
        reality = part.log.reality
        assert reality.round == before.number
        assert (reality.policy, reality.predicted_return) == (
            before.log.contender,
            before.log.expected,
        )
        whole = EpisodeStore(tmp_path / f"round-{part.number}" / "checks").load()
        returns = [float(e.rewards.sum()) for e in whole if e.terminated or len(e) == 500]
        assert reality.returns == returns
    assert all(part.log.predicted_return.low <= part.log.predicted_return.mean for part in rounds)
    # Before any real evaluation, the members of the ensemble give the interval.
    learned = learned_returns(as_policy(rounds[0].policy), rounds[0].twin, 8)
    half = np.abs(learned.by_member() - learned.mean).max()
    assert rounds[0].log.predicted_return.mean == learned.mean
    assert rounds[0].log.predicted_return.high == learned.mean + half


def test_real_evaluations_of_small_rounds_wait_until_they_are_whole_episodes(
    tmp_path: Path,
) -> None:
    small = config(tmp_path, steps=9_000, rounds=9, real_evaluation_share=0.25)
    assert [small.checks_of(n, 800) for n in range(9)] == [0, 0, 0, 0, 1000, 0, 0, 0, 1000]
    assert [small.checks_of(n, None) for n in range(9)] == [0, *[250] * 8]
    assert [small.checks_of(n, 5_000) for n in range(9)] == [0, 0, 500, 0, 500, 0, 500, 0, 500]
    never = small.replace(real_evaluation_share=0.0)
    assert not any(never.checks_of(n, 800) for n in range(9))


def test_an_episode_that_the_budget_cut_off_says_nothing_of_the_return() -> None:
    def episode(steps: int, *, terminated: bool) -> Episode:
        return Episode(
            np.zeros((steps + 1, 1), np.float32),
            np.zeros((steps, 1), np.float32),
            np.ones(steps, np.float32),
            terminated=terminated,
            truncated=not terminated,
        )

    log = RoundLog(
        round=3, real_steps=9, learned_steps=9, estimates={}, chosen="round-2/policy", contender="round-1/policy",
        predicted_return=None, expected=7.0, reality=None, seconds={},
    )  # fmt: skip
    played = [
        episode(4, terminated=True),
        episode(10, terminated=False),
        episode(3, terminated=False),
    ]
    found = real_evaluation(played, 10, log)
    assert found == RealEvaluation(
        round=3, policy="round-1/policy", returns=[4.0, 10.0], predicted_return=7.0
    )
    assert real_evaluation(played[2:], 10, log) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"real_evaluation_share": 0.6},
            r"real_evaluation_share must be in \[0, 0.5\], got 0.6",
        ),
        ({"patience": 0}, "patience must be >= 1, got 0"),
        ({"max_candidates": 0}, "max_candidates must be >= 1, got 0"),
        ({"explorers": {"restart": {}}}, "invalid explorer name 'restart'"),
        ({"restart_every": 0}, "restart_every must be >= 1, got 0"),
        ({"restart_every": 2, "warm_start": False}, "restart_every is 2 with warm_start=False"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOptionError, match=said):
        config(tmp_path, **change)
