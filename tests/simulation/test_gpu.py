"""A twin on a GPU is the twin it was on the CPU: skipped where there is none."""

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from world_env.envs.vector_env import WorldModelVectorEnv
from world_env.rng import CounterRNG
from world_env.simulation.simulator import Simulator, SimulatorConfig
from world_env.simulation.state_filter import StateFilter
from world_env.spec import WorldSpec
from world_env.testing.vector_env_checks import check_vector_env
from world_env.twin.twin import Twin
from world_env.types import OBSERVATION

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

ROWS = 48
VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
SEEN = spaces.Dict({"eye": spaces.Box(0, 255, (16, 16, 3), np.uint8), "joints": VECTOR})
ACTION = spaces.Box(-1.0, 1.0, (2,), np.float32)
WORLDS = {
    "linear": VECTOR,
    "ensemble": VECTOR,
    "rssm": SEEN,
}


@pytest.fixture(params=WORLDS)
def twins(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Twin]:
    """One twin that never learned but is not still either, on both devices."""
    family = request.param
    twin = Twin.untrained(WorldSpec(WORLDS[family], ACTION, horizon=12), family)
    generator = torch.Generator().manual_seed(0)
    for parameter in twin.model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    # Nothing but the horizon ends an episode.
    dataclasses.replace(twin, termination_threshold=1.0).save(tmp_path / "twin")
    return {device: Twin.load(tmp_path / "twin", device=device) for device in ("cpu", "cuda")}


def actions() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (ROWS, 2)).astype(np.float32)


def shown(observation: Any) -> dict[str, np.ndarray]:
    parts = observation if isinstance(observation, dict) else {OBSERVATION: observation}
    return {key: np.asarray(value, float) for key, value in parts.items()}


def assert_alike(left: Any, right: Any) -> None:
    """A byte of a pixel may round the other way."""
    theirs = shown(right)
    for key, value in shown(left).items():
        np.testing.assert_allclose(
            value, theirs[key], rtol=1e-3, atol=1.0 if key == "eye" else 1e-3
        )


def test_noise_is_the_same_noise() -> None:
    here, there = (CounterRNG.from_seed(5, ROWS, device=device) for device in ("cpu", "cuda"))
    assert torch.equal(here.uniform(7), there.uniform(7).cpu())
    torch.testing.assert_close(here.normal(7), there.normal(7).cpu(), rtol=1e-4, atol=1e-4)
    assert torch.equal(here.integers(9), there.integers(9).cpu())


@pytest.mark.parametrize("mode", ["observation", "latent"])
def test_one_step_is_the_same_step(twins: dict[str, Twin], mode: str) -> None:
    config = SimulatorConfig(uncertainty=True, observation_mode=mode)
    here, there = (Simulator(twins[name], ROWS, seed=3, config=config) for name in ("cpu", "cuda"))
    assert there.device.type == "cuda"
    assert_alike(here.reset(), there.reset())
    for _ in range(3):
        # From the same state: free-running rows would drift apart by their rounding.
        there.restore(here.snapshot())
        one, other = (simulator.step(actions()) for simulator in (here, there))
        assert_alike(one.observation, other.observation)
        np.testing.assert_allclose(one.reward, other.reward, rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(one.end, other.end)
        if one.uncertainty is not None:
            np.testing.assert_allclose(one.uncertainty, other.uncertainty, rtol=1e-2, atol=1e-3)


def test_a_fork_and_a_masked_reset_stay_on_the_gpu(twins: dict[str, Twin]) -> None:
    simulator = Simulator(twins["cuda"], ROWS, seed=3)
    simulator.reset()
    simulator.step(actions())
    forked = simulator.fork(np.arange(2), 3, seed=1)
    assert forked.device.type == "cuda"
    forked.step(actions()[:6])
    mask = np.arange(ROWS) % 2 == 0
    before = shown(simulator.observe())
    after = shown(simulator.reset(mask))
    for key, value in before.items():
        np.testing.assert_array_equal(value[~mask], after[key][~mask])


def test_what_is_observed_is_taken_in_alike(twins: dict[str, Twin]) -> None:
    space = twins["cpu"].spec.observation_space
    space.seed(0)
    first, second = (gym.vector.utils.batch_space(space, ROWS).sample() for _ in range(2))
    seen = []
    for twin in twins.values():
        filtered = StateFilter(twin)
        begun = filtered.start(first, range(ROWS))
        seen.append((begun, filtered.update(actions(), second, np.arange(ROWS))))
    for one, other in zip(*seen, strict=True):
        assert_alike(one, other)


def test_the_shells_keep_their_contracts(twins: dict[str, Twin], tmp_path: Path) -> None:
    check_vector_env(WorldModelVectorEnv(twins["cuda"], 3), steps=40)
    folder = twins["cuda"].save(tmp_path / "again")
    env = gym.make("WorldModel-v0", twin=str(folder), device="cuda")
    assert env.unwrapped.simulator.device.type == "cuda"
    check_env(env.unwrapped, skip_render_check=True)


def test_a_policy_learns_in_it(twins: dict[str, Twin]) -> None:
    from world_env.rl.learn import LearnConfig, learn

    options = {"n_steps": 4, "batch_size": 16}
    config = LearnConfig(steps=64, num_envs=8, algo_kwargs=options, observation_mode="latent")
    assert learn(twins["cuda"], config).num_timesteps == 64
