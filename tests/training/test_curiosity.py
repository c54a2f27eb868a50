"""Policies that seek uncertainty: what they are paid, and where they go."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from oracle import oracle_twin

from training.curiosity import UncertaintyReward
from training.learn import LearnConfig, learn
from training.real import RealConfig, StepLedger
from training.returns import Actor, policy_actor
from training.scripted import balance
from world_env.errors import InvalidOptionError
from world_env.sb3 import WorldModelVecEnv
from world_env.twin import Twin

SEEK = LearnConfig(
    steps=30_000, rows=32, reward="uncertainty", on_uncertain="ignore", dataset_starts=0.0, seed=1
)


@pytest.fixture(scope="module")
def far_is_uncertain() -> Twin:
    """The exact CartPole, which doubts what it says by its distance from the middle of the track."""
    return dataclasses.replace(oracle_twin("CartPole-v1"), uncertainty_threshold=0.5)


def test_a_step_pays_its_share_of_the_threshold(far_is_uncertain: Twin) -> None:
    worlds = WorldModelVecEnv(far_is_uncertain, 3, uncertainty=True)
    env = UncertaintyReward(worlds, far_is_uncertain)
    env.reset()
    places = np.array([[0.1, 0, 0, 0], [-0.25, 0, 0, 0], [2.0, 0, 0, 0]], np.float32)
    worlds.simulator.reset(options={"observation": places})
    _, reward, _, infos = env.step(np.zeros(3, np.int64))
    assert reward.dtype == np.float32
    np.testing.assert_allclose(reward, [0.2, 0.5, 1.0], rtol=1e-5)
    assert [round(info["uncertainty"], 3) for info in infos] == [0.1, 0.25, 2.0]


def test_the_policy_goes_where_the_twin_knows_least(far_is_uncertain: Twin) -> None:
    def paid(actor: Actor) -> float:
        env = UncertaintyReward(
            WorldModelVecEnv(far_is_uncertain, 16, seed=5, uncertainty=True), far_is_uncertain
        )
        observation = env.reset()
        total, going = 0.0, np.ones(16, np.bool_)
        for _ in range(200):
            observation, reward, done, _ = env.step(actor(observation, np.arange(16)))
            total += float(reward[going].sum()) / 16
            going &= ~done
        return total

    # Both live long; one of them far from the middle.
    assert paid(policy_actor(learn(far_is_uncertain, SEEK))) > 40
    assert paid(lambda observation, rows: balance(observation)) < 20


def test_nobody_else_pays_for_uncertainty(far_is_uncertain: Twin, tmp_path: Path) -> None:
    certain = dataclasses.replace(far_is_uncertain, uncertainty_threshold=None)
    with pytest.raises(InvalidOptionError, match="no threshold"):
        learn(certain, SEEK)
    with pytest.raises(InvalidOptionError, match="only learned worlds pay"):
        learn(RealConfig("CartPole-v1"), SEEK, ledger=StepLedger(tmp_path / "steps.json"))
    with pytest.raises(InvalidOptionError, match="expected 'task' or 'uncertainty'"):
        LearnConfig(reward="curiosity")
