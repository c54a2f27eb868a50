"""Twins written by an earlier commit still load and still step to what they stepped to then."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from world_env import Twin
from world_env.simulation.simulator import Simulator

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
_SPEC = importlib.util.spec_from_file_location("make_golden", GOLDEN / "make.py")
assert _SPEC is not None and _SPEC.loader is not None
make = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make)


@pytest.mark.parametrize("family", sorted(make.CONFIGS))
def test_a_golden_twin_steps_as_it_did_when_it_was_written(family: str) -> None:
    twin = Twin.load(GOLDEN / family)
    expected = json.loads((GOLDEN / f"{family}.json").read_text(encoding="utf-8"))
    for shown, wanted in zip(make.trajectory(twin), expected, strict=True):
        for name, values in wanted.items():
            np.testing.assert_allclose(shown[name], values, atol=1e-5, err_msg=name)


FINGERPRINTS = {
    "ensemble": "798fe21cb0ae09816bdc3a96c12420ab75947d04a13ffb3e3cfb7c2c5ffc84db",
    "linear": "fb0d8fde6e8b4f532529b6575c539c72bad0cb8f59e61634e0a8146798b43130",
}
"""Of the golden twins, by the code that wrote them: policies on disk name their twin so."""


@pytest.mark.parametrize("family", sorted(make.CONFIGS))
def test_a_golden_twin_is_still_the_world_that_policies_were_trained_in(family: str) -> None:
    assert Twin.load(GOLDEN / family).fingerprint() == FINGERPRINTS[family]


def test_the_golden_trajectories_move() -> None:
    for family in make.CONFIGS:
        steps = json.loads((GOLDEN / f"{family}.json").read_text(encoding="utf-8"))
        assert np.ptp([step["observation"] for step in steps], axis=0).min() > 1e-3


def test_every_bundled_twin_loads_and_steps_inside_its_space(bundled: list[str]) -> None:
    for name in bundled:
        twin = Twin.load(name)
        simulator = Simulator(twin, 4, seed=0)
        observations = simulator.reset()
        space = twin.spec.action_space
        space.seed(0)
        for _ in range(20):
            action = np.stack([space.sample() for _ in range(4)])
            result = simulator.step(action)
            assert all(row in twin.spec.observation_space for row in result.observation), name
            if simulator.finished.any():
                simulator.reset(simulator.finished.copy())
        assert not np.array_equal(observations, simulator.observe()), name
