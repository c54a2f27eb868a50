"""Evaluation of a twin by a pool: an exact twin agrees in every policy, a broken one does not; the twin stores it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from oracle import oracle_twin

from world_env.cli.main import main
from world_env.errors import InvalidOptionError, SpaceMismatchError
from world_env.policies.random_policy import RandomPolicy
from world_env.policy_evaluation.evaluate_twin import (
    TrainedPolicy,
    agreement,
    evaluate_twin,
    with_agreement,
)
from world_env.policy_evaluation.policy_pool import Pool
from world_env.policy_evaluation.pool_selection import Member
from world_env.policy_evaluation.return_prediction import predict_return
from world_env.real.step_ledger import StepLedger
from world_env.rollouts.real import run_real
from world_env.spec import EnvConfig
from world_env.twin.twin import Twin

EPISODES, LIMIT = 8, 60
REAL = EnvConfig("CartPole-v1", {"max_episode_steps": LIMIT})
BALANCE = "training.scripted_policies:balance"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """The scripted CartPole policy with more and more noise, as six runs of two policies."""
    folder = tmp_path_factory.mktemp("pool")
    members = [Member(f"noise {i}", f"run {i // 2}", "scripted", i / 12) for i in range(12)]
    made = Pool(folder, REAL, members, [], range(70, 70 + EPISODES), scripted=BALANCE)
    spec = oracle_twin("CartPole-v1", horizon=LIMIT).spec
    returns = [
        run_real(made.policy(m, spec), REAL, made.seeds, purpose="judge", ledger=StepLedger())
        for m in members
    ]
    return dataclasses.replace(made, returns=returns, real_steps={"judge": 1})


@pytest.fixture(scope="module")
def exact(pool: Pool) -> Twin:
    twin = oracle_twin("CartPole-v1", horizon=LIMIT)
    return with_agreement(twin, *agreement(evaluate_twin(twin, pool), pool))


def test_an_exact_twin_agrees(exact: Twin, pool: Pool) -> None:
    found = exact.fidelity.agreement
    stats = found.evaluation
    assert stats.pearson > 0.999
    assert stats.pearson_ci95[0] > 0.99
    assert abs(stats.bias_fraction) < 0.01
    assert stats.mmrv_fraction < 0.01
    assert stats.supported_share == 1.0
    assert found.optimisation is None
    assert found.pool.runs == 6
    assert found.pool.range == (
        min(part.mean for part in pool.returns),
        max(part.mean for part in pool.returns),
    )
    assert [point.policy for point in found.points] == [m.name for m in pool.members]


def test_a_twin_that_pays_too_much_is_found_out(pool: Pool) -> None:
    twin = dataclasses.replace(
        oracle_twin("CartPole-v1", horizon=LIMIT),
        reward_fn=lambda obs, action, arrived: np.full(len(action), 1.5, np.float32),
    )
    stats = agreement(evaluate_twin(twin, pool), pool)[0].evaluation
    assert stats.bias_fraction > 0.1
    assert stats.pearson > 0.99  # a correlation does not see it


def test_the_promise_is_stored_and_survives_saving(exact: Twin, pool: Pool, tmp_path: Path) -> None:
    calibration = exact.fidelity.return_prediction
    assert (calibration.calibrated_on.policies, calibration.calibrated_on.runs) == (12, 6)
    loaded = Twin.load(exact.save(tmp_path / "twin"))
    assert loaded.fidelity == exact.fidelity
    actor = pool.policy(pool.members[10], loaded.spec)
    mean, low, high = predict_return(actor, loaded, episodes=EPISODES)
    assert low <= mean <= high
    assert high - low == pytest.approx(2.0 * calibration.half_width)


def test_policies_trained_in_the_twin_are_kept_apart(pool: Pool) -> None:
    twin = oracle_twin("CartPole-v1", horizon=LIMIT)
    trained = [
        TrainedPolicy(f"t{i}", "t", pool.policy(pool.members[0], twin.spec), pool.returns[0])
        for i in range(3)
    ]
    found = agreement(evaluate_twin(twin, pool, trained), pool)[0]
    assert found.evaluation.policies == 12
    assert found.optimisation.policies == 3
    assert found.optimisation.pearson is None  # all the same policy
    assert {point.kind for point in found.points} == {"evaluation", "optimisation"}


def test_other_worlds_and_other_seeds_are_refused(pool: Pool) -> None:
    with pytest.raises(SpaceMismatchError):
        evaluate_twin(oracle_twin("Pendulum-v1"), pool)
    twin = oracle_twin("CartPole-v1", horizon=LIMIT)
    few = dataclasses.replace(pool.returns[0], values=pool.returns[0].values[:3])
    stranger = TrainedPolicy("t", "t", RandomPolicy(twin.spec.action_space), few)
    with pytest.raises(InvalidOptionError, match="evaluate it on the seeds of the pool"):
        evaluate_twin(twin, dataclasses.replace(pool, members=[], returns=[]), [stranger])


def test_a_bundled_twin_is_not_written_to(
    pool: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pool.json").write_text("{}")
    assert main(["compare", "--twin", "cartpole", "--pool", str(tmp_path)]) == 2
    assert "is no finished pool" in capsys.readouterr().err
