"""Predicted returns: conformal intervals have their coverage, or there is none and a reason."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from oracle import oracle_twin

from world_env.errors import InvalidOptionError, StageError
from world_env.policy_evaluation.correlation import PolicyReturns
from world_env.policy_evaluation.return_prediction import (
    MIN_CALIBRATION,
    calibrate,
    coverage,
    interval,
    leave_one_run_out,
    own_starts,
    predict_return,
)
from world_env.results import Fidelity
from world_env.results.fidelity import PolicyCount

pytestmark = pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")


def judged(
    errors: np.ndarray, *, past: float | None = 0.0, runs: int = 10, real: float = 100.0
) -> list[PolicyReturns]:
    return [
        PolicyReturns(
            f"p{i}",
            f"r{i % runs}",
            "evaluation",
            np.full(4, real),
            np.full(4, real + error),
            past_threshold=past,
        )
        for i, error in enumerate(errors)
    ]


def test_the_interval_is_the_conformal_one() -> None:
    calibration = calibrate(judged(np.arange(-10.0, 11.0)))
    assert calibration is not None
    assert calibration.bias == 0.0
    # Rank ceil(22 * .9) = 20 of 21: |errors| sorted are 0, 1, 1, 2, 2, ...; the 20th is 10.
    assert calibration.half_width == 10.0
    assert calibration.calibrated_on == PolicyCount(policies=21, runs=10)
    mean, low, high = interval(calibration, 50.0, 0.0)
    assert (mean, low, high) == (50.0, 40.0, 60.0)


def test_a_twin_that_always_promises_too_much_is_corrected() -> None:
    calibration = calibrate(judged(np.full(20, 30.0)))
    assert tuple(interval(calibration, 80.0, 0.0)) == (50.0, 50.0, 50.0)


def test_exchangeable_policies_are_covered_as_often_as_said() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(400):
        errors = rng.standard_t(3, size=21)
        calibration = calibrate(judged(errors[:20]))
        promise = interval(calibration, 100.0 + errors[20], 0.0)
        held.append(promise.low <= 100.0 <= promise.high)
    assert 0.87 <= np.mean(held) <= 0.96


def test_a_policy_that_leaves_the_data_gets_no_interval() -> None:
    near = judged(np.linspace(-1, 1, 20), past=0.0)
    far = judged(np.linspace(-300, 300, 10), past=0.5)
    calibration = calibrate(near + far)
    assert calibration is not None
    assert calibration.half_width < 2.0
    promise = interval(calibration, 100.0, 0.5)
    assert math.isinf(promise.low)
    assert math.isinf(promise.high)
    assert str(promise).startswith(
        "no interval: 50.0 % of the policy's steps are out of distribution"
    )
    assert str(interval(calibration, 100.0, 0.0)).startswith("100 [")


def test_errors_that_grow_beyond_the_data_are_corrected() -> None:
    shares = np.linspace(0.0, 0.5, 20)
    far = [
        judged(np.array([200.0 * share + wobble]), past=float(share))[0]
        for share, wobble in zip(shares, [-1.0, 1.0] * 10, strict=True)
    ]
    far = [dataclasses.replace(policy, run=f"r{i}") for i, policy in enumerate(far)]
    calibration = calibrate(far)
    assert calibration is not None
    assert calibration.bias_per_share == pytest.approx(200.0, abs=10.0)
    mean, low, high = interval(calibration, 180.0, 0.4)
    assert mean == pytest.approx(100.0, abs=3.0)
    assert high - low < 8.0


def test_too_few_supported_policies_give_no_interval() -> None:
    assert calibrate(judged(np.zeros(MIN_CALIBRATION - 1))) is None
    assert "fewer than" in str(interval(None, 3.0, 0.0))


def test_no_policy_is_judged_by_its_own_run() -> None:
    errors = np.zeros(30)
    errors[0] = 500.0  # run r0; in its own calibration it would cover itself
    promises = leave_one_run_out(judged(errors))
    assert promises[0].high - promises[0].low == 0.0
    found = coverage(judged(errors), promises, span=100.0)
    assert found["coverage90"] == pytest.approx(29 / 30)
    assert found["supported_share"] == 1.0


def test_an_uncalibrated_twin_says_what_to_do() -> None:
    twin = oracle_twin("CartPole-v1")
    with pytest.raises(StageError, match="world-env pool"):
        predict_return(lambda observation, rows: np.zeros(len(rows), int), twin)


def test_predict_return_unpacks_and_begins_from_every_start_alike(tmp_path: Path) -> None:
    twin = oracle_twin("CartPole-v1")
    calibration = calibrate(judged(np.linspace(-5.0, 5.0, 20), past=None))
    twin = dataclasses.replace(twin, fidelity=Fidelity(return_prediction=calibration))
    mean, low, high = predict_return(
        lambda observation, rows: np.zeros(len(rows), int), twin, episodes=64
    )
    assert 8.0 <= mean <= 11.0  # always pushing left falls after nine or ten steps
    assert high - low == pytest.approx(2 * 5.0)
    starts = own_starts(twin, 64)
    assert starts.shape == (64, 4)
    assert np.array_equal(starts[:32], starts[32:])
    with pytest.raises(InvalidOptionError, match="expected a Stable-Baselines3 model"):
        predict_return(3, twin)  # type: ignore[arg-type]
