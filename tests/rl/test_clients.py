"""Algorithms of sb3-contrib and SBX: trained in a twin, saved, compared with reality, and their return predicted."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from world_env.errors import StageError
from world_env.policies.saved_policy import policy_card
from world_env.policy_evaluation.compare import compare
from world_env.policy_evaluation.return_prediction import predict_return
from world_env.results.fidelity import Fidelity
from world_env.rl.learn import LearnConfig, learn
from world_env.twin.twin import Twin

RUNS = {
    "RecurrentPPO": (
        "cartpole",
        {"num_envs": 4, "steps": 512, "algo_kwargs": {"n_steps": 64, "n_epochs": 2}},
    ),
    "TQC": ("pendulum", {"steps": 200, "algo_kwargs": {"learning_starts": 100}}),
    "sbx.PPO": (
        "cartpole",
        {"steps": 512, "num_envs": 8, "algo_kwargs": {"n_steps": 64, "n_epochs": 2}},
    ),
    "sbx.SAC": ("pendulum", {"steps": 200, "algo_kwargs": {"learning_starts": 100}}),
}


@pytest.mark.slow
@pytest.mark.parametrize("algo", RUNS)
def test_it_is_trained_saved_compared_and_predicted(algo: str, tmp_path: Path) -> None:
    name, fields = RUNS[algo]
    twin = Twin.load(name)
    model = learn(twin, LearnConfig(algo=algo, **fields), out=tmp_path / "policy")
    assert policy_card(tmp_path / "policy").algorithm == algo
    model.save(tmp_path / "model.zip")
    given = {"model": model, "folder": tmp_path / "policy", "zip": tmp_path / "model.zip"}
    rows = compare(twin, given, episodes=3).rows
    for side in ("real_mean", "learned_mean"):
        (mean,) = {getattr(row, side) for row in rows}
        assert np.isfinite(mean)
    # The weights were trained, and a finished policy is loaded.
    again = learn(twin, LearnConfig(algo=algo, **fields), out=tmp_path / "policy")
    assert again.num_timesteps == model.num_timesteps >= fields["steps"]
    borrowed = Twin.load("half-cheetah").fidelity.return_prediction
    calibrated = dataclasses.replace(twin, fidelity=Fidelity(return_prediction=borrowed))
    predicted = [predict_return(policy, calibrated, episodes=3) for policy in given.values()]
    assert len({prediction.mean for prediction in predicted}) == 1
    with pytest.raises(StageError, match="no calibration"):
        predict_return(model, twin)


@pytest.mark.slow
def test_off_policy_algorithms_of_sbx_have_the_defaults_of_off_policy_algorithms(
    tmp_path: Path,
) -> None:
    pytest.importorskip("sbx")
    assert LearnConfig(algo="sbx.SAC").parallel_envs == 1
    assert LearnConfig(algo="sbx.PPO").parallel_envs == 64
    fields = {"steps": 8, "algo_kwargs": {"learning_starts": 100, "learning_rate": 1e-3}}
    model = learn(Twin.load("pendulum"), LearnConfig(algo="sbx.SAC", **fields))
    assert model.get_vec_normalize_env() is None
    assert model.buffer_size == 8
    assert model.learning_rate == 1e-3  # constant
