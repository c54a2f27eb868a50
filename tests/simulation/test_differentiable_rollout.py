"""Gradients through the world: exact, and from any snapshot."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from oracle import oracle_twin, real_spec
from torch import Tensor

from world_env import rollout
from world_env.models.ensemble.model import EnsembleConfig
from world_env.rng import CounterRNG
from world_env.simulation.simulator import Simulator
from world_env.twin.twin import Twin, load_cached

ROWS = 3


@pytest.mark.parametrize("family", ["oracle", "ensemble", "linear"])
def test_gradients_from_a_snapshot(family: str, tmp_path) -> None:
    if family == "oracle":
        twin = oracle_twin("Pendulum-v1", noise=0.01)
    else:
        config = EnsembleConfig(members=2, width=8, layers=1, head_width=8)
        config = config if family == "ensemble" else None
        untrained = Twin.untrained(real_spec("Pendulum-v1"), family, config)
        for parameter in untrained.model.parameters():
            parameter.data += 0.1 * torch.ones_like(parameter).cumsum(-1).sin()
        twin = load_cached(untrained.save(tmp_path / "twin"), dtype=torch.float64)
    simulator = Simulator(twin, ROWS, seed=0)
    simulator.reset()
    simulator.step(np.zeros((ROWS, 1), np.float32))
    snapshot = simulator.snapshot()
    rng = CounterRNG(snapshot.seeds, snapshot.draws)

    def value(plan: Tensor, start: Tensor) -> Tensor:
        steps = iter(plan.unbind(1))
        name = "physics" if family == "oracle" else "observation"
        state = {**snapshot.state, name: start}
        return rollout(twin.model, state, lambda _: next(steps), 4, rng).returns(0.9)

    plan = torch.linspace(-0.5, 0.5, ROWS * 4, dtype=torch.float64).reshape(ROWS, 4, 1)
    start = snapshot.state["physics" if family == "oracle" else "observation"].double()
    inputs = (plan.requires_grad_(), start.clone().requires_grad_())
    assert torch.autograd.gradcheck(value, inputs)


def test_a_rollout_is_what_the_simulator_lives() -> None:
    twin = oracle_twin("CartPole-v1", noise=0.01)
    simulator = Simulator(twin, ROWS, seed=0)
    simulator.reset()
    snapshot = simulator.snapshot()
    rng = CounterRNG(snapshot.seeds, snapshot.draws)
    always_left = torch.tensor([[1.0, 0.0]]).expand(ROWS, 2)
    imagined = rollout(twin.model, snapshot.state, lambda _: always_left, 5, rng)
    assert torch.equal(rng.draws, snapshot.draws)
    for step in range(5):
        shown = simulator.step(np.zeros(ROWS, int))
        decoded = imagined.observations[step + 1]["observation"]
        np.testing.assert_allclose(shown.observation, decoded.numpy(), atol=1e-6)
        np.testing.assert_allclose(shown.reward, imagined.rewards[:, step].numpy())
    again = rollout(twin.model, snapshot.state, lambda _: always_left, 5, rng)
    assert torch.equal(again.states[-1]["physics"], imagined.states[-1]["physics"])


def test_what_is_dead_pays_nothing() -> None:
    twin = oracle_twin("CartPole-v1")
    simulator = Simulator(twin, ROWS, seed=0)
    simulator.reset()
    right = torch.tensor([[0.0, 1.0]]).expand(ROWS, 2)
    rng = CounterRNG.from_seed(0, ROWS)
    state = simulator.snapshot().state
    imagined = rollout(twin.model, state, lambda _: right, 30, rng)
    lived = np.zeros(ROWS)
    while not simulator.finished.all():
        running = ~simulator.finished
        simulator.step(np.ones(ROWS, int), running)
        lived += running
    np.testing.assert_allclose(imagined.returns().numpy(), lived)
    assert imagined.alive.shape == imagined.terminated.shape == (ROWS, 30)
    assert (imagined.alive[:, 0] == 1).all()
    assert len(imagined.states) == len(imagined.observations) == 31
    with pytest.raises(ValueError, match="steps is 0"):
        rollout(twin.model, state, lambda _: right, 0, rng)


def test_temperature_zero_is_the_mean_future() -> None:
    twin = oracle_twin("CartPole-v1", noise=0.1)
    simulator = Simulator(twin, ROWS, seed=0)
    simulator.reset()
    state, right = simulator.snapshot().state, torch.tensor([[0.0, 1.0]]).expand(ROWS, 2)
    runs = [
        rollout(twin.model, state, lambda _: right, 3, CounterRNG.from_seed(s, ROWS), temperature=t)
        for s, t in ((0, 0.0), (9, 0.0), (0, 1.0))
    ]
    first, second, noisy = (run.states[-1]["physics"] for run in runs)
    assert torch.equal(first, second) and not torch.equal(first, noisy)


def test_the_public_name_stays_a_function() -> None:
    said = (
        "import world_env, world_env.simulation.differentiable_rollout; world_env.rollout; "
        "print(callable(world_env.rollout))"
    )
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
