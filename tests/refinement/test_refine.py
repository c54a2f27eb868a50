"""Rounds of collect, fit and learn: every real step counted, nothing done twice."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from tensorboard_curves import curves

from world_env.data.store import EpisodeStore
from world_env.errors import (
    ConfigMismatchError,
    InvalidOptionError,
    SpaceMismatchError,
    StageError,
)
from world_env.fitting.config import FitConfig
from world_env.policies.config import MixtureExploration, PolicyExploration
from world_env.policies.saved_policy import load_policy, policy_card, save_policy
from world_env.real.real_env import spec_of
from world_env.real.step_ledger import StepLedger
from world_env.refinement.config import RefineConfig
from world_env.refinement.preconditions import check_settings
from world_env.refinement.refine import refine
from world_env.refinement.rounds import Round
from world_env.rl.learn import LearnConfig
from world_env.spec import EnvConfig

pytestmark = pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")

ROUNDS = 2


@pytest.fixture(autouse=True, scope="module")
def few_episodes() -> Iterator[None]:
    """Learned returns of policies are means over fewer episodes than usual."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("world_env.refinement.policy_selection.ESTIMATE_EPISODES", 3)
        patch.setattr("world_env.refinement.rounds._PREDICTION_EPISODES", 3)
        yield


STEPS = 401


def half_each(*paths: str) -> MixtureExploration:
    parts = tuple(PolicyExploration(path=path) for path in paths)
    return MixtureExploration(parts=parts, weights=(0.5, 0.5))


def tiny(out: Path, **change: Any) -> RefineConfig:
    options: dict[str, Any] = {
        "steps": STEPS,
        "rounds": ROUNDS,
        "real_evaluation_share": 0.5,
        "seed": 2,
        "fit": FitConfig(
            gradient_steps=20,
            batch_size=32,
            validate_every=10,
            model={"members": 2, "width": 8, "head_width": 8, "rollout": 2},
        ),
        "learn": LearnConfig(
            steps=256, num_envs=8, algo_kwargs={"n_steps": 32, "batch_size": 64, "n_epochs": 1}
        ),
        **change,
    }
    return RefineConfig(EnvConfig("CartPole-v1"), out, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Round], dict[str, int]]:
    out = tmp_path_factory.mktemp("refine") / "run"
    ledger = StepLedger(out / "real-steps.json")
    rounds = refine(tiny(out, tensorboard=out.parent / "board"), ledger=ledger)
    return out, rounds, ledger.by_purpose


class Killed(Exception):
    pass


def killed_in(stage: str, number: int = 0) -> Callable[[str, int, int, Any], None]:
    """Dies at the first word of a stage, of the given round."""
    rounds = {"number": -1, "last": ""}

    def report(name: str, done: int, wanted: int, logs: Any) -> None:
        if name == "collect" and rounds["last"] != "collect":
            rounds["number"] += 1
        rounds["last"] = name
        if name == stage and rounds["number"] == number:
            raise Killed

    return report


def assert_same(left: list[Round], right: list[Round]) -> None:
    assert [part.real_steps for part in left] == [part.real_steps for part in right]
    for one, other in zip(left, right, strict=True):
        theirs = other.twin.model.state_dict()
        for name, value in one.twin.model.state_dict().items():
            assert torch.equal(value, theirs[name]), name
        for ours, its in zip(
            one.policy.policy.parameters(), other.policy.policy.parameters(), strict=True
        ):
            np.testing.assert_array_equal(ours.detach(), its.detach())


def test_the_rounds_share_the_wanted_real_steps(
    finished: tuple[Path, list[Round], dict[str, int]],
) -> None:
    out, rounds, counted = finished
    assert [part.number for part in rounds] == [0, 1]
    checks = (STEPS - STEPS // 2) // 2
    assert counted == {"collect": STEPS - checks, "evaluate": checks, "validate": 1}
    assert [part.real_steps for part in rounds] == [STEPS // 2, STEPS]
    folders = ("round-0/data", "round-1/checks", "round-1/data")
    stored = [EpisodeStore(out / folder).steps for folder in folders]
    assert stored == [STEPS // 2, checks, STEPS - STEPS // 2 - checks]


def test_the_rounds_write_their_curves_and_those_of_their_stages(
    finished: tuple[Path, list[Round], dict[str, int]],
) -> None:
    out, rounds, _ = finished
    found = curves(out.parent / "board")
    assert found["refine/real_steps"] == [(part.number, part.real_steps) for part in rounds]
    predicted = [(p.number, pytest.approx(p.log.predicted_return.mean)) for p in rounds]
    assert found["refine/predicted_return"] == predicted
    # The real evaluation episodes of round 1 are those of the policy of round 0.
    returns = rounds[1].log.reality.returns
    assert found["refine/real_return"] == [(0, pytest.approx(np.mean(returns)))]
    for number in range(ROUNDS):
        board = out.parent / "board" / f"round-{number}"
        assert [step for step, _ in curves(board / "twin")["fit/open_loop"]] == [10, 20]
        assert curves(board / "policy")["learn/episode_return"][-1][0] == 256


def test_the_second_round_is_explored_by_the_first_policy_and_fits_all_data(
    finished: tuple[Path, list[Round], dict[str, int]],
) -> None:
    out, rounds, _ = finished
    second = EpisodeStore(out / "round-1" / "data")
    assert second.provenance["exploration"] == {
        "kind": "policy",
        "path": str(rounds[0].policy_folder),
        "deterministic": False,
    }
    provenance = rounds[1].twin.provenance
    assert provenance.steps == provenance.real_steps == STEPS
    assert provenance.exploration == [
        {"kind": "random"},
        {"kind": "policy", "path": "selected", "deterministic": False},
    ]
    assert str(out) not in str(provenance)


def test_a_refinement_collects_with_a_policy_of_its_own_for_that(tmp_path: Path) -> None:
    ledger = StepLedger()
    config = tiny(
        tmp_path / "run",
        later_exploration=half_each("selected", "curious"),
        explorers={
            "curious": {"simulation": {"reward": "uncertainty", "on_uncertain": "ignore"}},
            "unused": {},
        },
    )
    rounds = refine(config, ledger=ledger)
    curious = rounds[0].policy_folder.with_name("policy-curious")
    cards = [
        policy_card(folder).provenance["learn"] for folder in (rounds[0].policy_folder, curious)
    ]
    assert [card["simulation"]["reward"] for card in cards] == ["task", "uncertainty"]
    assert cards[0]["seed"] != cards[1]["seed"]
    weights = [
        load_policy(folder).policy.state_dict() for folder in (rounds[0].policy_folder, curious)
    ]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    store = EpisodeStore(tmp_path / "run" / "round-1" / "data")
    assert store.provenance["exploration"]["parts"][1]["path"] == str(curious)
    assert rounds[-1].twin.provenance.exploration == [
        {"kind": "random"},
        config.later_exploration.to_json(),
    ]
    # The last round's data is never collected with, and who does not collect is not trained.
    assert not rounds[-1].twin_folder.with_name("policy-curious").exists()
    assert not curious.with_name("policy-unused").exists()
    assert ledger.total(exclude=("validate",)) == config.steps


def test_who_acts_later_is_known_before_a_step_is_made(tmp_path: Path) -> None:
    ledger = StepLedger()
    unknown = tiny(tmp_path, later_exploration=PolicyExploration(path="hasty"))
    with pytest.raises(InvalidOptionError, match=r"'hasty', expected.* selected, newest"):
        refine(unknown, ledger=ledger)
    assert ledger.total() == 0 and not (tmp_path / "config.json").exists()
    with pytest.raises(InvalidOptionError, match="'newest', which exists in later rounds only"):
        tiny(tmp_path, exploration=PolicyExploration(path="newest"))


@pytest.mark.parametrize(
    ("env_id", "evaluates_twins", "said"),
    [
        ("CartPole-v1", True, "belongs to a policy pool"),
        ("Pendulum-v1", False, "choose a policy trained for this environment"),
    ],
)
def test_a_policy_that_may_not_collect_later_is_refused_before_a_real_step(
    tmp_path: Path, env_id: str, evaluates_twins: bool, said: str
) -> None:
    model = PPO("MlpPolicy", env_id, n_steps=8, batch_size=8)
    folder = save_policy(
        model, tmp_path / "policy", trained_in="real", evaluates_twins=evaluates_twins
    )
    ledger = StepLedger()
    later = half_each("newest", str(folder))
    with pytest.raises((InvalidOptionError, SpaceMismatchError), match=said):
        refine(tiny(tmp_path / "out", later_exploration=later), ledger=ledger)
    assert ledger.by_purpose == {}
    model.save(tmp_path / "model.zip")
    zipped = tiny(tmp_path, exploration=PolicyExploration(path=str(tmp_path / "model.zip")))
    if env_id == "CartPole-v1":
        check_settings(zipped, spec_of(zipped.real))


def test_explorers_are_what_they_are_asked_to_be_and_only_collect(tmp_path: Path) -> None:
    both = half_each("hasty", "steady")
    explorers = {
        "hasty": {"algo_kwargs": {"gamma": 0.9}},
        "steady": {"simulation": {"on_uncertain": "ignore"}},
    }
    config = tiny(tmp_path, later_exploration=both, explorers=explorers, explorer_steps=512)
    rounds = refine(config, ledger=StepLedger())
    cards = {
        name: policy_card(rounds[0].twin_folder.with_name(f"policy-{name}")).provenance["learn"]
        for name in explorers
    }
    assert cards["hasty"]["algo_kwargs"] == config.learn.algo_kwargs | {"gamma": 0.9}
    assert cards["hasty"]["simulation"] == config.learn.simulation.to_json()
    assert cards["steady"]["algo_kwargs"] == config.learn.algo_kwargs
    assert cards["steady"]["simulation"]["on_uncertain"] == "ignore"
    assert {card["steps"] for card in cards.values()} == {512}
    assert cards["hasty"]["seed"] != cards["steady"]["seed"]
    assert {done.policy_folder.name for done in rounds} == {"policy"}
    with pytest.raises(StageError, match="explorers"):
        refine(config.replace(explorers=explorers | {"other": {}}), ledger=StepLedger())


@pytest.mark.parametrize(
    ("explorers", "said"),
    [
        ({"newest": {}}, "invalid explorer name 'newest'"),
        ({"no word": {}}, "invalid explorer name 'no word'"),
        ({"hasty": {"gamma": 0.9}}, "explorer 'hasty'.*unknown field `gamma`"),
        ({"hasty": {"steps": 0}}, "explorer 'hasty': steps must be >= 1, got 0"),
    ],
)
def test_an_explorer_that_cannot_be_is_refused(
    tmp_path: Path, explorers: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidOptionError, match=said):
        tiny(tmp_path, explorers=explorers)


def test_later_rounds_can_be_small_and_go_on_from_the_last_one(tmp_path: Path) -> None:
    config = tiny(
        tmp_path / "run",
        rounds=3,
        warm_start=True,
        later_gradient_steps=10,
    )
    ledger = StepLedger()
    rounds = refine(config, ledger=ledger)
    assert [part.real_steps for part in rounds] == [133, 267, 401]
    assert ledger.by_purpose == {"collect": 267, "evaluate": 134, "validate": 1}
    fits = [part.twin.provenance for part in rounds]
    assert [fit.recorded("fit", "gradient_steps") for fit in fits] == [20, 10, 10]
    assert [fit.warm_start for fit in fits] == [
        None,
        *(part.twin.fingerprint() for part in rounds[:2]),
    ]
    newest = [part.twin_folder.with_name("policy") for part in rounds]
    cards = [policy_card(folder).provenance["learn"] for folder in newest]
    assert [card["steps"] for card in cards] == [256, 256, 256]
    counts = {
        folder: card["reward_statistics"]["count"]
        for folder, card in zip(newest, cards, strict=True)
    }
    for last, folder in itertools.pairwise(newest):
        assert counts[folder] - counts[last] == pytest.approx(256)
    again = StepLedger()
    assert_same(rounds, refine(config, ledger=again))
    assert again.by_purpose == {}
    with pytest.raises(StageError, match="warm_start was true, now false"):
        refine(config.replace(warm_start=False), ledger=again)


def test_rounds_of_an_older_version_are_refused_by_name(tmp_path: Path) -> None:
    refine(tiny(tmp_path / "run"), ledger=StepLedger())
    path = tmp_path / "run" / "round-0" / "round.json"
    log = json.loads(path.read_text())
    del log["contender"]
    ledger = StepLedger()
    for text, said in ((json.dumps(log), "missing required field `contender`"), ("{", "Expecting")):
        path.write_text(text)
        with pytest.raises(StageError, match=rf"round-0/round.json .*{said}.*another folder"):
            refine(tiny(tmp_path / "run"), ledger=ledger)
    assert ledger.total() == 0


def test_another_run_makes_no_real_step_and_gives_the_same(
    finished: tuple[Path, list[Round], dict[str, int]],
) -> None:
    out, rounds, _ = finished
    ledger = StepLedger()
    again = refine(tiny(out), ledger=ledger)
    assert ledger.by_purpose == {}
    assert_same(rounds, again)


@pytest.mark.parametrize(
    ("stage", "number"), [("fit", 0), ("learn", 0), ("collect", 1), ("learn", 1)]
)
def test_a_killed_run_goes_on_to_the_same_result(
    stage: str,
    number: int,
    tmp_path: Path,
    finished: tuple[Path, list[Round], dict[str, int]],
) -> None:
    ledger = StepLedger()
    with pytest.raises(Killed):
        refine(tiny(tmp_path), ledger=ledger, report=killed_in(stage, number))
    rounds = refine(tiny(tmp_path), ledger=ledger)
    assert ledger.by_purpose == finished[2]
    assert_same(finished[1], rounds)


def test_a_run_killed_in_a_restart_takes_it_up_again(tmp_path: Path) -> None:
    again: dict[str, Any] = {"warm_start": True}
    again |= {"restart_every": 1, "restart_steps": 512}

    def killed(name: str, done: int, wanted: int, logs: Any) -> None:
        if name == "learn" and wanted == 512 and done >= 256:
            raise Killed

    whole = refine(tiny(tmp_path / "whole", **again), ledger=StepLedger())
    with pytest.raises(Killed):
        refine(tiny(tmp_path / "killed", **again), ledger=StepLedger(), report=killed)
    rounds = refine(tiny(tmp_path / "killed", **again), ledger=StepLedger())
    assert_same(whole[:1], rounds[:1])
    assert rounds[1].log.discounted.keys() == {"policy", "policy-restart"}
    assert rounds[1].log.learned_steps == whole[1].log.learned_steps == 256 + 256 + 512


def test_a_run_with_other_settings_is_not_mixed_in(
    finished: tuple[Path, list[Round], dict[str, int]],
) -> None:
    out = finished[0]
    with pytest.raises(ConfigMismatchError, match=r"\bseed was 2, now 3"):
        refine(tiny(out, seed=3), ledger=StepLedger())
    with pytest.raises(ConfigMismatchError, match=r"learn\.steps was 256, now 128"):
        refine(tiny(out, learn=LearnConfig(steps=128)), ledger=StepLedger())
    with pytest.raises(ConfigMismatchError, match=r"fit\.gradient_steps was 20, now 10"):
        refine(tiny(out, fit=FitConfig(gradient_steps=10)), ledger=StepLedger())


@pytest.mark.parametrize("change", [{"steps": 2 * STEPS}, {"steps": STEPS - 1}, {"rounds": 1}])
def test_another_number_of_steps_is_refused_before_any_is_taken(
    change: dict[str, int], finished: tuple[Path, list[Round], dict[str, int]]
) -> None:
    out = finished[0]
    ledger = StepLedger()
    before = sorted(path for path in out.rglob("*"))
    with pytest.raises(StageError, match=r"(steps|rounds) was \d+, now \d+.*another folder"):
        refine(tiny(out, **change), ledger=ledger)
    assert ledger.by_purpose == {}
    assert sorted(path for path in out.rglob("*")) == before


def test_more_steps_are_refused_while_a_fit_is_unfinished(tmp_path: Path) -> None:
    ledger = StepLedger()

    def killed_after_a_checkpoint(name: str, done: int, wanted: int, logs: Any) -> None:
        if name == "fit":
            raise Killed

    with pytest.raises(Killed):
        refine(tiny(tmp_path), ledger=ledger, report=killed_after_a_checkpoint)
    spent = ledger.by_purpose
    with pytest.raises(StageError, match="steps was"):
        refine(tiny(tmp_path, steps=2 * STEPS), ledger=ledger)
    assert ledger.by_purpose == spent


def test_known_functions_reach_every_round(tmp_path: Path) -> None:
    def ended(observation: Any, action: Any, next_observation: Any) -> np.ndarray:
        return np.abs(next_observation[:, 2]) > 0.2

    config = tiny(tmp_path, steps=200, rounds=1)
    for _ in range(2):  # made, then read back
        (done,) = refine(config, ledger=StepLedger(), termination_fn=ended)
        assert done.twin.known == ["termination"]
    ledger = StepLedger()
    with pytest.raises(StageError, match=r'known functions was \["termination"\], now \[\]'):
        refine(config, ledger=ledger)
    assert ledger.by_purpose == {}


def test_less_than_one_step_a_round_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="got 1 steps in 2 rounds"):
        tiny(tmp_path, steps=1)
    with pytest.raises(InvalidOptionError, match="rounds must be >= 1, got 0"):
        tiny(tmp_path, rounds=0)
