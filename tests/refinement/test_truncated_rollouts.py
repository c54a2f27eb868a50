"""Truncated rollouts: episodes from data states are cut after a rollout length, those from initial states go on."""

import numpy as np
from oracle import oracle_twin

from world_env.simulation.simulator import Simulator, SimulatorConfig

CARTPOLE = "CartPole-v1"


def test_branches_end_where_they_may_and_rollouts_from_real_starts_go_on() -> None:
    twin = oracle_twin(CARTPOLE)
    simulator = Simulator(twin, 2, seed=0, config=SimulatorConfig(dataset_rollout_length=5))
    context = {
        "observations": np.zeros((2, 1, 4), np.float32),
        "actions": np.zeros((2, 0), np.int64),
        "elapsed": np.array([0, 7]),
    }
    simulator.reset(options={"context": context})
    ends = []
    for step in range(8):
        running = ~simulator.finished
        result = simulator.step(np.full(2, step % 2), rows=running)
        ends.append([result.end[row] if running[row] else None for row in range(2)])
    rollout = 3
    assert ends == [[0, 0]] * 4 + [[0, rollout]] + [[0, None]] * 3


def test_a_branch_that_terminates_is_no_truncation() -> None:
    twin = oracle_twin(CARTPOLE)
    simulator = Simulator(twin, 1, seed=0, config=SimulatorConfig(dataset_rollout_length=1))
    fallen = {
        "observations": np.array([[[0.0, 0.0, 0.5, 0.0]]], np.float32),
        "actions": np.zeros((1, 0), np.int64),
        "elapsed": np.array([3]),
    }
    simulator.reset(options={"context": fallen})
    result = simulator.step(np.zeros(1, np.int64))
    assert bool(result.terminated[0])
    assert not bool(result.truncated[0])
