"""Stages stop at the limit on real steps, keep what was collected, and resume; plans of trainings are exact."""

from pathlib import Path
from typing import Any

import pytest

from world_env.cli.main import main
from world_env.collection.collect import collect
from world_env.collection.config import CollectConfig
from world_env.data.store import EpisodeStore
from world_env.errors import RealStepLimitError
from world_env.pipeline import planned_steps
from world_env.policies.random_policy import RandomPolicy
from world_env.policies.saved_policy import policy_card
from world_env.policy_evaluation.compare import compare
from world_env.policy_evaluation.config import PoolConfig
from world_env.policy_evaluation.policy_pool import pool
from world_env.real.real_env import spec_of
from world_env.real.step_ledger import StepLedger
from world_env.refinement.config import RefineConfig
from world_env.refinement.refine import refine
from world_env.refinement.step_plan import planned_rounds
from world_env.rl.config import LearnConfig
from world_env.rl.learn import learn
from world_env.rl.step_plan import training_steps
from world_env.spec import EnvConfig
from world_env.twin.twin import Twin

CARTPOLE = EnvConfig("CartPole-v1", {"max_episode_steps": 30})
PENDULUM = EnvConfig("Pendulum-v1", {"max_episode_steps": 30})
FEW = {"n_steps": 64, "batch_size": 32, "n_epochs": 1}


def test_a_collection_keeps_its_complete_episodes_at_the_limit(tmp_path: Path) -> None:
    whole = collect(CollectConfig(CARTPOLE, tmp_path / "whole", 300)).load()
    config = CollectConfig(CARTPOLE, tmp_path / "data", 300)
    above = StepLedger()
    with pytest.raises(RealStepLimitError, match="limit of 140"):
        collect(config.replace(max_real_steps=140), ledger=above)
    store = EpisodeStore(config.out)
    assert above.total() == 140 and 110 < store.steps <= 140
    assert planned_steps(config).by_purpose == {"collect": 300 - store.steps}
    resumed = collect(config.replace(max_real_steps=1_000), ledger=above)
    assert [e.digest() for e in resumed.load()] == [e.digest() for e in whole]
    assert above.total() == 140 + 300 - store.steps


@pytest.mark.parametrize(
    ("real", "config"),
    [
        (CARTPOLE, LearnConfig(steps=300, num_envs=1)),
        (
            CARTPOLE,
            LearnConfig(steps=300, num_envs=16, algo_kwargs={"n_steps": 8, "batch_size": 64}),
        ),
        (CARTPOLE, LearnConfig(algo="A2C", steps=101, num_envs=3)),
        (CARTPOLE, LearnConfig(algo="DQN", steps=101)),
        (PENDULUM, LearnConfig(algo="TD3", steps=101, num_envs=2)),
        (PENDULUM, LearnConfig(algo="TD3", steps=101, algo_kwargs={"train_freq": (3, "step")})),
        (PENDULUM, LearnConfig(algo="TD3", steps=101, algo_kwargs={"train_freq": (1, "episode")})),
    ],
)
def test_the_plan_of_a_training_has_its_number_of_steps(real: EnvConfig, config: Any) -> None:
    ledger = StepLedger()
    learn(real, config, ledger=ledger)
    plan = training_steps(config, spec_of(real), None, use="training")
    assert plan.at_least <= ledger.total() <= (plan.steps or 0)
    if config.algo_kwargs.get("train_freq") == (1, "episode"):
        assert plan.steps == 101 + 30
    else:
        assert plan.at_least == plan.steps == ledger.total()


@pytest.mark.parametrize(
    ("config", "saved", "total"),
    [
        # The policy has learned from two whole rollouts of 64 steps; the third one is played again.
        (LearnConfig(steps=256, num_envs=1, algo_kwargs=FEW), 128, 150 + 128),
        # A replay buffer holds every step. Rollouts have four.
        (LearnConfig(algo="DQN", steps=256, algo_kwargs={"learning_starts": 8}), 150, 150 + 108),
    ],
)
def test_a_training_in_reality_resumes_after_the_limit(
    config: LearnConfig, saved: int, total: int, tmp_path: Path
) -> None:
    out, steps = tmp_path / "policy", tmp_path / "steps.json"
    with pytest.raises(RealStepLimitError):
        learn(CARTPOLE, config, out=out, ledger=StepLedger(steps, max_steps=150))
    assert StepLedger(steps).by_purpose == {"collect": 150}
    done = policy_card(tmp_path / ".policy.partial").provenance["learn"]["done"]
    assert done == saved
    left = training_steps(config, spec_of(CARTPOLE), out, use="training")
    assert left.steps == left.at_least == total - 150
    learn(CARTPOLE, config, out=out, ledger=StepLedger(steps, max_steps=total))
    assert StepLedger(steps).by_purpose == {"collect": total}
    assert training_steps(config, spec_of(CARTPOLE), out, use="training").steps == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_comparison_stops_at_the_limit(workers: int) -> None:
    twin = Twin.load("cartpole")
    ledger = StepLedger(max_steps=40)
    policy = RandomPolicy(twin.spec.action_space)
    with pytest.raises(RealStepLimitError):
        compare(twin, policy, ledger=ledger, episodes=8, workers=workers)
    assert ledger.by_purpose == {"validate": 1, "judge": 39}


def test_a_refinement_stops_at_the_limit_of_its_settings(tmp_path: Path) -> None:
    config = RefineConfig(CARTPOLE, tmp_path, steps=400, rounds=2, real_evaluation_share=0.5)
    spec, above = spec_of(CARTPOLE), StepLedger()
    check, data, checks = planned_rounds(config, spec)
    assert check.purpose == "validate" and check.steps == 1
    assert (data.steps, checks.steps) == (300, 100) and data.steps == data.at_least
    # With patience, rounds beyond it may not be run.
    _, data, _ = planned_rounds(config.replace(rounds=4, patience=1), spec)
    assert data.at_least < (data.steps or 0) < 400
    with pytest.raises(
        RealStepLimitError, match=r"at least 401 more.*No step was taken\. Lower --st"
    ):
        refine(config.replace(max_real_steps=400), ledger=above)
    assert above.total(()) == 0 and not (tmp_path / "round-0").exists()
    above.count("collect", 150)
    with pytest.raises(RealStepLimitError, match="150 taken before"):
        refine(config.replace(max_real_steps=401), ledger=above)
    above.limited(151).count("judge")
    with pytest.raises(RealStepLimitError):
        above.limited(151).count("judge")
    assert above.limited(None) is above and above.total(()) == 151


def test_a_pool_stops_at_the_limit_and_its_plan_bounds_what_it_takes(tmp_path: Path) -> None:
    config = PoolConfig(
        CARTPOLE, tmp_path, on_policy_steps=64, off_policy_steps=64, episodes=2, policies=20
    )
    plan = planned_steps(config)
    with pytest.raises(RealStepLimitError):
        pool(config.replace(max_real_steps=5_000))
    assert StepLedger(tmp_path / "real-steps.json").total(()) == 5_000
    found = pool(config)
    # After one step of the check, the limit cut the third run of PPO, after two of 2,048 steps, in its first rollout.
    assert found.real_steps["collect"] == (plan.by_purpose["collect"] or 0) + 4_999 - 2 * 2_048
    for purpose in ("select", "judge"):
        assert 0 < found.real_steps[purpose] <= (plan.by_purpose[purpose] or 0)
    assert planned_steps(config).total == 0


@pytest.mark.parametrize(
    ("words", "lower"),
    [
        (["collect", "CartPole-v1", "--steps", "60"], "--steps"),
        (["learn", "CartPole-v1", "--steps", "60"], "--steps"),
        (["build", "CartPole-v1", "--steps", "200", "--no-baseline"], "--judge-episodes"),
        (["refine", "CartPole-v1", "--steps", "200"], "--steps"),
        (["pool", "CartPole-v1"], "--on-policy-steps"),
        (["compare", "--twin", "cartpole", "--policies", "--episodes", "51"], "--episodes"),
    ],
)
def test_commands_that_need_more_than_their_limit_say_what_to_lower(
    words: list[str], lower: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run" / "out"
    assert main([*words, "--out", str(out), "--max-real-steps", "50"]) == 2
    said = capsys.readouterr().err
    assert "RealStepLimitError: this run needs more real steps than the limit of 50" in said
    assert lower in said.partition("No step was taken. Lower ")[2]
    assert not list(tmp_path.rglob("*.json"))


def test_a_comparison_announces_its_steps_and_keeps_the_limit_over_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["compare", "--twin", "cartpole", "--policies", "--episodes", "5"]
    words += ["--out", str(tmp_path), "--max-real-steps", "2000"]
    assert main(words) == 0
    said = caplog.text
    assert "evaluate  at most 2,500  1 policy x 5 episodes of up to 500 steps" in said
    taken = StepLedger(tmp_path / "real-steps.json").total()
    assert main(words) == 0
    assert f"{taken:,} taken before (validate 1, evaluate {taken - 1:,})" in caplog.text
