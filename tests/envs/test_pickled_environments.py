"""Environments, simulators and twins in a pickle: the copy has the same future, also in another process."""

import copy
import functools
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from oracle import real_spec
from small_twin import small

from world_env.envs.env import WorldModelEnv
from world_env.envs.gymnasium_vector_to_sb3 import GymnasiumVectorToSB3
from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
from world_env.envs.vector_env import WorldModelVectorEnv
from world_env.models.layers.fused_activation import compiled_loops
from world_env.simulation.simulator import Simulator
from world_env.twin.twin import Twin

N, STEPS = 3, 40
FAMILIES = ["ensemble", "linear", "rssm"]
KINDS = ["single", "made", *[mode.name for mode in gym.vector.AutoresetMode], "sb3", "adapter"]


@functools.cache
def twin_of(family: str) -> Twin:
    if family == "ensemble":
        return small()
    return Twin.untrained(real_spec("CartPole-v1"), family)


def made(kind: str, twin: Twin) -> Any:
    options: dict[str, Any] = {"horizon": 15, "termination": "sample"}
    if kind == "single":
        return WorldModelEnv(twin, **options, render_mode="rgb_array")
    if kind == "made":
        return gym.make("WorldModel-v0", twin="cartpole", horizon=15)
    if kind == "sb3":
        return WorldModelSB3VecEnv(twin, N, seed=5, **options)
    if kind == "adapter":
        inner = WorldModelVectorEnv(twin, N, autoreset_mode="DISABLED", **options)
        return GymnasiumVectorToSB3(inner)
    return WorldModelVectorEnv(twin, N, autoreset_mode=kind, **options)


def future(env: Any, steps: int = STEPS) -> list[Any]:
    """Observations, rewards and ends of the next steps, new episodes included."""
    told: list[Any] = []
    many = not isinstance(env, gym.Env)
    for step in range(steps):
        outcome = env.step(np.full(N, step % 2) if many else step % 2)
        shown, reward, *rest = outcome
        ends = rest[:1] if len(outcome) == 4 else rest[:2]
        told.append([np.array(shown), np.array(reward), *map(np.array, ends)])
        over = np.logical_or.reduce(ends)
        if many and len(outcome) == 5:
            disabled = env.metadata["autoreset_mode"] is gym.vector.AutoresetMode.DISABLED
            if disabled and over.any():
                told.append([env.reset(options={"reset_mask": over})[0]])
        elif not many and over:
            told.append([env.reset()[0]])
    return told


def assert_equal(one: list[Any], other: list[Any]) -> None:
    assert len(one) == len(other)
    for parts in zip(one, other, strict=True):
        for part, expected in zip(*parts, strict=True):
            np.testing.assert_array_equal(part, expected)


def begun(kind: str, twin: Twin) -> Any:
    """An environment in the middle of an episode."""
    env = made(kind, twin)
    env.reset() if kind in ("sb3", "adapter") else env.reset(seed=5)
    future(env, 7)
    return env


@pytest.mark.usefixtures("bundled")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_copies_have_the_same_future(kind: str, family: str) -> None:
    env = begun(kind, twin_of(family))
    if kind == "single":
        env.render()
    copies = [pickle.loads(pickle.dumps(env)), copy.deepcopy(env)]
    expected = future(env)
    for other in copies:
        assert_equal(future(other), expected)
    if kind == "single":
        np.testing.assert_array_equal(copies[0].render(), env.render())
    env.close()


def test_simulators_and_twins() -> None:
    twin = twin_of("ensemble")
    again = pickle.loads(pickle.dumps(twin))
    assert again.fingerprint() == twin.fingerprint() and again.spec == twin.spec
    simulator = Simulator(twin, N, seed=1)
    simulator.reset()
    other = pickle.loads(pickle.dumps(simulator))
    for _ in range(5):
        one, two = simulator.step(np.ones(N, int)), other.step(np.ones(N, int))
        np.testing.assert_array_equal(one.observation, two.observation)
    # The weights are in it once.
    weights = twin_of("rssm").model.state_dict().values()
    size = sum(value.numel() * value.element_size() for value in weights)
    assert size < len(pickle.dumps(Simulator(twin_of("rssm"), 1))) < 1.2 * size


@pytest.mark.usefixtures("bundled")
def test_a_spawned_process_has_the_same_future() -> None:
    env = begun("made", twin_of("ensemble"))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        answer = pool.apply(future_of_pickle, (pickle.dumps(env),))
    assert_equal(answer, future(env))


def future_of_pickle(data: bytes) -> list[Any]:
    return future(pickle.loads(data))


@pytest.mark.usefixtures("bundled")
@pytest.mark.parametrize("writer", ["with", "without"])
def test_numba_of_the_writer_and_of_the_reader_may_differ(writer: str, tmp_path: Path) -> None:
    assert compiled_loops() is not None
    code = {
        "with": "",
        "without": "import sys; sys.modules['numba'] = None\n",
    }
    write = (
        "import pickle, gymnasium, world_env\n"
        "env = gymnasium.make('WorldModel-v0'); env.reset(seed=0); env.step(1)\n"
        "pickle.dump(env, open('env', 'wb')); print(env.step(1)[0].tolist())"
    )
    read = "import pickle\nprint(pickle.load(open('env', 'rb')).step(1)[0].tolist())"
    reader = "without" if writer == "with" else "with"
    root = Path(__file__).resolve().parents[2]
    lines = [
        subprocess.run(
            [sys.executable, "-c", code[who] + text],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(root)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for who, text in ((writer, write), (reader, read))
    ]
    one, other = (np.array(eval(line)) for line in lines)
    # Compiled loops and torch round differently.
    np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.usefixtures("bundled")
@pytest.mark.parametrize("name", ["cartpole", "half-cheetah", "pendulum-pixels"])
def test_texts_at_a_prompt_are_short(name: str) -> None:
    twin = Twin.load(name)
    shown = [twin, Simulator(twin, 4), WorldModelEnv(twin), WorldModelVectorEnv(twin, 4)]
    for each in (*shown, WorldModelSB3VecEnv(twin, 4), gym.make("WorldModel-v0", twin=name)):
        assert len(repr(each)) < 300 and type(each).__name__ in repr(each)
    for part in (
        str(twin.spec.real_id),
        twin.family,
        "horizon=",
        type(twin.spec.action_space).__name__,
    ):
        assert part in repr(twin)
