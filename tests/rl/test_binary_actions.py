"""Policies of Stable-Baselines3 return MultiBinary actions as float32: all environments take them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_twins import Exact
from gymnasium import spaces
from hand_written import faulty

from world_env.batch import Context
from world_env.codec import Codec
from world_env.errors import InvalidActionError
from world_env.policies.saved_policy import load_policy
from world_env.policy_evaluation.compare import compare
from world_env.real.real_env import make_real
from world_env.real.step_ledger import StepLedger
from world_env.rl.config import LearnConfig, TwinTrainingConfig
from world_env.rl.learn import learn
from world_env.spec import EnvConfig, WorldSpec
from world_env.twin.twin import Twin

SEEN, LAMPS = spaces.Box(-9, 9, (2,), np.float32), spaces.MultiBinary(3)
SHORT: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "n_epochs": 1}


class Still(Exact):
    """Nothing moves; the reward is the number of lamps that are on."""

    def move(self, state, action):  # type: ignore[no-untyped-def]
        return dict(state), action.unflatten(-1, (-1, 2))[..., 1].sum(-1)


@pytest.mark.parametrize("algo", ["PPO", "A2C"])
def test_a_policy_of_binary_actions_trains_and_plays_on_both_sides(
    algo: str, tmp_path: Path
) -> None:
    spec = WorldSpec(SEEN, LAMPS, horizon=10)
    begun = Context.from_observation({"observation": torch.zeros(4, 2)}, 2 * 3)
    twin = Twin(spec, "still", Still(spec, None), starts=begun)
    real = EnvConfig(faulty({"action_space": LAMPS}), horizon=10)
    settings = LearnConfig(
        algo=algo,
        steps=64,
        num_envs=1,
        algo_kwargs=SHORT if algo == "PPO" else {},
        simulation=TwinTrainingConfig(dataset_starts=0.0),
    )
    learn(twin, settings, out=tmp_path / "policy")
    ledger = StepLedger()
    assert learn(real, settings, ledger=ledger).num_timesteps >= 64
    policy = load_policy(tmp_path / "policy", expect=spec)
    (row,) = compare(twin, policy, real=real, ledger=ledger, episodes=5).rows
    assert 0.0 <= row.learned_mean <= 30.0 and row.episodes == 5


def test_other_numbers_are_no_binary_actions() -> None:
    codec = Codec(WorldSpec(SEEN, LAMPS))
    ledger = StepLedger()
    real = EnvConfig(faulty({"action_space": LAMPS}), horizon=10)
    env = make_real(real, purpose="collect", ledger=ledger)
    env.reset(seed=0)
    for action in ([0.0, 0.5, 1.0], [0.0, 2.0, 1.0], [np.nan, 0.0, 1.0]):
        with pytest.raises(InvalidActionError):
            env.step(np.array(action, np.float32))
        with pytest.raises(InvalidActionError):
            codec.encode_action(np.array([action], np.float32))
    assert ledger.total() == 0
