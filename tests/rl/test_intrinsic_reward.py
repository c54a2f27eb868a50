"""Policies that seek uncertainty: what they are paid, and where they go."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from oracle import Still, oracle_twin, still_twin
from torch import Tensor

from world_env.batch import State
from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
from world_env.errors import InvalidOptionError
from world_env.models.base import Prediction
from world_env.real.step_ledger import StepLedger
from world_env.rl.config import TwinTrainingConfig
from world_env.rl.intrinsic_reward import UncertaintyReward
from world_env.rl.learn import LearnConfig, learn
from world_env.rng import CounterRNG
from world_env.spec import EnvConfig, WorldSpec
from world_env.twin.twin import Twin

SEEK = LearnConfig(
    steps=20_000,
    num_envs=32,
    simulation=TwinTrainingConfig(reward="uncertainty", on_uncertain="ignore", dataset_starts=0.0),
    seed=1,
)


@pytest.fixture(scope="module")
def far_is_uncertain() -> Twin:
    """The exact CartPole, whose uncertainty is its distance from the middle of the track."""
    return dataclasses.replace(oracle_twin("CartPole-v1"), uncertainty_threshold=0.5)


def test_a_step_pays_its_share_of_the_threshold(far_is_uncertain: Twin) -> None:
    worlds = WorldModelSB3VecEnv(far_is_uncertain, 3, uncertainty=True)
    env = UncertaintyReward(worlds, far_is_uncertain)
    env.reset()
    places = np.array([[0.1, 0, 0, 0], [-0.25, 0, 0, 0], [2.0, 0, 0, 0]], np.float32)
    worlds.simulator.reset(options={"observation": places})
    _, reward, _, infos = env.step(np.zeros(3, np.int64))
    assert reward.dtype == np.float32
    np.testing.assert_allclose(reward, [0.2, 0.5, 1.0], rtol=1e-5)
    assert [round(info["uncertainty"], 3) for info in infos] == [0.1, 0.25, 2.0]


class Line(Still):
    """A place on a line, pushed left or right: the task pays for the middle, the doubt grows away from it."""

    def step(
        self,
        state: State,
        action: Tensor,
        *,
        rng: CounterRNG,
        temperature: float = 1.0,
        uncertainty: bool = False,
    ) -> tuple[State, Prediction]:
        place = state["observation"] + 0.1 * (action[:, 1:] - action[:, :1])
        far = place[:, 0].abs()
        return {"observation": place}, Prediction(-far, torch.zeros_like(far), uncertainty=far)


def test_the_policy_goes_where_the_twin_knows_least() -> None:
    spec = WorldSpec(spaces.Box(-9, 9, (1,)), spaces.Discrete(2), horizon=50)
    twin = dataclasses.replace(still_twin(spec), model=Line(spec, None), uncertainty_threshold=2.0)

    def place(reward: str) -> float:
        policy = learn(twin, SEEK.replace(simulation=SEEK.simulation.replace(reward=reward)))
        env = WorldModelSB3VecEnv(twin, 8, seed=5)
        observation = env.reset()
        for _ in range(49):
            observation, _, _, _ = env.step(policy.predict(observation, deterministic=True)[0])
        return float(np.abs(observation).mean())

    assert place("uncertainty") > 2
    assert place("task") < 0.5


def test_nobody_else_pays_for_uncertainty(far_is_uncertain: Twin, tmp_path: Path) -> None:
    certain = dataclasses.replace(far_is_uncertain, uncertainty_threshold=None)
    with pytest.raises(InvalidOptionError, match="no threshold"):
        learn(certain, SEEK)
    with pytest.raises(InvalidOptionError, match="in a twin only"):
        learn(EnvConfig("CartPole-v1"), SEEK, ledger=StepLedger(tmp_path / "steps.json"))
    with pytest.raises(InvalidOptionError, match="expected one of 'task', 'uncertainty'"):
        TwinTrainingConfig(reward="curiosity")
