"""The ensemble's fast stepper: the model's own steps, compiled or not, and in bfloat16 nearly so."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_ensemble import ACTIONS, MEMBERS, SIZE, awake, statistics, tied

from world_env.batch import Statistics
from world_env.models.ensemble import model as ensemble
from world_env.models.ensemble.model import EnsembleWorldModel
from world_env.models.layers import fused_activation as loops
from world_env.rng import CounterRNG
from world_env.types import Uncertainty


@pytest.mark.parametrize("kind", [False, True, "full"])
@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("scales", [statistics, tied])
def test_the_stepper_steps_as_the_model_does(
    model: EnsembleWorldModel, scales: Callable[[], Statistics], rows: int, kind: Uncertainty
) -> None:
    model.prepare(scales())
    awake(model)
    fast = model.for_inference()
    assert fast._compiled_step is not None, "numba is missing: the compiled step would go untested"
    rng = CounterRNG.from_seed(2, rows)
    state = model._fresh(0.5 * rng.normal(SIZE), rng.integers(MEMBERS))
    for step in range(5):
        action = torch.eye(ACTIONS)[(torch.arange(rows) + step) % ACTIONS]
        given = {name: value.clone() for name, value in state.items()}
        with torch.no_grad():
            results = [
                one.step(state, action, rng=rng.clone(), temperature=0.7, uncertainty=kind)
                for one in (model, fast)
            ]
        (arrived, said), (quick, quickly) = results
        for name, value in arrived.items():
            torch.testing.assert_close(quick[name], value, rtol=1e-4, atol=1e-5)
        for name in ("reward", "terminated", "terminal_reward", "uncertainty"):
            pair = getattr(quickly, name), getattr(said, name)
            torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5)
        assert all(torch.equal(given[name], state[name]) for name in given)
        rng.normal(SIZE)
        state = arrived


STEPPED = """
import hashlib
import torch
from world_env import Simulator
from world_env import SimulatorConfig
from world_env import Twin
torch.set_num_threads(1)
told = hashlib.sha256()
for rows, kind in ((8, True), (8, "full"), (70, True)):
    simulator = Simulator(
        Twin.load("pendulum"), rows, seed=0, config=SimulatorConfig(uncertainty=kind)
    )
    simulator.reset()
    for _ in range(20):
        result = simulator.step(torch.zeros(rows, 1).numpy())
        for value in (result.observation, result.reward, result.terminated, result.uncertainty):
            told.update(value.tobytes())
print(told.hexdigest())
"""


@pytest.mark.slow
def test_the_first_process_steps_as_those_that_find_compiled_code(tmp_path: Path) -> None:
    kept = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    told = [
        subprocess.run(
            [sys.executable, "-c", STEPPED], env=kept, check=True, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    ]
    assert list(tmp_path.rglob("*.nbi")), "nothing was compiled: the test shows nothing"
    assert told[0] == told[1]


def test_without_numba_a_stepper_takes_the_way_of_torch(
    model: EnsembleWorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    awake(model)
    compiled = model.for_inference()
    monkeypatch.setattr(loops, "compiled_loops", lambda: None)
    monkeypatch.setattr(ensemble, "compiled_loops", lambda: None)
    plain = model.for_inference()
    assert compiled._compiled_step is not None and plain._compiled_step is None
    for rows in (1, 100):
        state = model._fresh(torch.zeros(rows, SIZE), torch.arange(rows) % MEMBERS)
        action = torch.eye(ACTIONS)[torch.arange(rows) % ACTIONS]
        with torch.no_grad():
            futures = [
                one.step(state, action, rng=CounterRNG.from_seed(0, rows))[0]["observation"]
                for one in (compiled, plain)
            ]
        torch.testing.assert_close(*futures, rtol=1e-4, atol=1e-5)


def test_a_stepper_says_what_is_no_number(model: EnsembleWorldModel) -> None:
    fast = awake(model).for_inference()
    state = model._fresh(torch.full((2, SIZE), math.nan), torch.zeros(2, dtype=torch.int64))
    with torch.no_grad():
        arrived, said = fast.step(state, torch.eye(ACTIONS), rng=CounterRNG.from_seed(0, 2))
    assert arrived["observation"].isnan().all() and said.reward.isnan().all()


def test_a_stepper_follows_weights_that_learn(model: EnsembleWorldModel) -> None:
    awake(model)
    fast = model.for_inference()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
        for rows in (2, 100):
            state = model._fresh(torch.zeros(rows, SIZE), torch.arange(rows) % MEMBERS)
            action = torch.eye(ACTIONS)[torch.arange(rows) % ACTIONS]
            futures = [
                one.step(state, action, rng=CounterRNG.from_seed(0, rows))[0]["observation"]
                for one in (model, fast)
            ]
            torch.testing.assert_close(*futures)
