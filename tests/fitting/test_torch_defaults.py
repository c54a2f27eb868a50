"""Defaults and modes of torch in the user's program have no effect: nothing depends on them."""

import contextlib
import functools
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from oracle import real_episodes, real_spec

import world_env
import world_env.fitting.fit as fit_module
from world_env.device import torch_defaults
from world_env.envs.env import WorldModelEnv
from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
from world_env.fitting.config import FitConfig
from world_env.fitting.fit import fit_episodes
from world_env.policies.loading import as_policy
from world_env.policies.saved_policy import load_policy
from world_env.rl.config import LearnConfig
from world_env.rl.learn import learn
from world_env.rollouts.learned import run_learned
from world_env.testing.model_checks import check_world_model
from world_env.twin.twin import Twin

FAMILIES: dict[str, dict[str, Any]] = {
    "ensemble": {"members": 2, "width": 16, "head_width": 8},
    "rssm": {"deter": 16, "groups": 2, "classes": 4, "hidden": 16, "window": 8},
    "linear": {},
}
MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}
CHANGES = ["meta", "bfloat16", "float16", "float64", *MODES]


@pytest.fixture(params=CHANGES)
def changed(request: pytest.FixtureRequest) -> Iterator[str]:
    """Settings that a program may have; the device "meta" stands for a GPU: it has no data at all."""
    if request.param in MODES:
        with MODES[request.param]():
            yield request.param
        return
    if request.param == "meta":
        torch.set_default_device("meta")
    else:
        torch.set_default_dtype(getattr(torch, request.param))
    try:
        yield request.param
        left = torch.get_default_device().type, torch.get_default_dtype()
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    expected = ("meta", torch.float32)
    if request.param != "meta":
        expected = ("cpu", getattr(torch, request.param))
    assert left == expected


def fitted(family: str, folder: Path) -> list[Any]:
    """Fit, save, load and step a twin; return what came out."""
    episodes = real_episodes("CartPole-v1", 30, seed=3)
    config = FitConfig(
        family=family, model=FAMILIES[family], gradient_steps=12, validate_every=6, eval_horizon=20
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twin = fit_episodes(episodes, real_spec("CartPole-v1"), config)
    twin.save(folder / family)
    again = Twin.load(folder / family)
    assert again.fingerprint() == twin.fingerprint()
    return [twin.fingerprint(), *stepped(again, 1), *stepped(again, 70)]


def stepped(twin: Twin, num_envs: int) -> list[Any]:
    env = world_env.WorldModelVectorEnv(twin, num_envs, horizon=20, autoreset_mode="SAME_STEP")
    told = [env.reset(seed=0)[0]]
    actions = np.random.default_rng(0).integers(0, 2, (30, num_envs))
    for action in actions:
        shown, rewards, terminated, truncated, infos = env.step(action)
        told += [shown, rewards, terminated, truncated, infos.get("uncertainty", 0.0)]
    snapshot = env.snapshot()
    env.restore(snapshot)
    env.reset(options={"observation": told[0] * 0.5})
    fork = env.fork(n=2)
    told += [env.step(actions[0])[0], fork.step(np.repeat(actions[0], 2)).observation]
    single = WorldModelEnv(twin, dataset_starts=0.5 if twin.states is not None else 0.0)
    single.reset(seed=1)
    return [*told, single.step(1)[0]]


def learned(folder: Path) -> list[Any]:
    """Learn, save, load and play a policy in a bundled twin."""
    config = LearnConfig(steps=512, num_envs=8, algo_kwargs={"n_steps": 32, "batch_size": 64})
    twin = Twin.load("cartpole")
    learn(twin, config, out=folder)
    first = np.zeros((4, 4), np.float32)
    played = run_learned(as_policy(folder, twin.spec), twin, first)
    action = load_policy(folder).predict(first, deterministic=True)[0]
    return [played.values, played.lengths, action]


@functools.cache
def usual(what: str, folder: Path) -> list[Any]:
    with torch_defaults():
        return learned(folder) if what == "learn" else fitted(what, folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("usual")


def assert_equal(one: list[Any], other: list[Any]) -> None:
    assert len(one) == len(other) > 0
    for each, expected in zip(one, other, strict=True):
        np.testing.assert_array_equal(each, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_fits_saves_loads_and_steps_alike(
    changed: str, family: str, tmp_path: Path, place: Path
) -> None:
    assert_equal(fitted(family, tmp_path), usual(family, place / family))


@pytest.mark.usefixtures("bundled")
def test_policies_learn_and_play_alike(changed: str, tmp_path: Path, place: Path) -> None:
    assert_equal(learned(tmp_path / "policy"), usual("learn", place / "policy"))


@pytest.mark.usefixtures("bundled")
@pytest.mark.parametrize("name", ["cartpole", "half-cheetah", "pendulum-pixels"])
def test_bundled_twins_step_by_their_id(changed: str, name: str) -> None:
    env = gym.make("WorldModel-v0", twin=name)
    shown, _ = env.reset(seed=0)
    assert env.observation_space.contains(shown)
    assert env.observation_space.contains(env.step(env.action_space.sample())[0])
    many = WorldModelSB3VecEnv(name, 2, seed=0)
    many.reset()
    many.step(np.array([many.action_space.sample() for _ in range(2)]))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_contract_of_world_models_holds(changed: str, family: str) -> None:
    check_world_model(Twin.untrained(real_spec("CartPole-v1"), family).model)


@pytest.mark.parametrize("mode", MODES)
def test_an_environment_is_stepped_on_in_another_mode(mode: str) -> None:
    twin = Twin.untrained(real_spec("CartPole-v1"), "ensemble")
    actions = np.zeros(70, np.int64)

    def told(block: Any) -> list[Any]:
        with block():
            env = world_env.WorldModelVectorEnv(twin, 70, autoreset_mode="SAME_STEP")
            found = [env.reset(seed=0)[0], env.step(actions)[0]]
        found += [env.step(actions)[0] for _ in range(3)]
        kept = env.snapshot()
        with block():
            env.restore(kept)
            found.append(env.step(actions)[0])
        return [*found, env.step(actions)[0], env.fork(np.arange(70)).step(actions).observation]

    assert_equal(told(MODES[mode]), told(contextlib.nullcontext))


def test_blocks_nest_and_restore_in_any_order() -> None:
    torch.set_default_dtype(torch.float64)
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with torch_defaults():
            inside.set()
            assert leave.wait(10)

    thread = threading.Thread(target=other)
    try:
        with torch_defaults():
            thread.start()
            assert inside.wait(10)
            with torch_defaults(), pytest.raises(ValueError, match="stops"):
                raise ValueError("stops the innermost block")
            assert torch.zeros(1).dtype is torch.float32
        # The block of the other thread still runs.
        assert torch.zeros(1).dtype is torch.float32
        leave.set()
        thread.join(10)
        assert torch.zeros(1).dtype is torch.float64
        torch.set_default_device("meta")
        with torch_defaults():
            assert torch.zeros(1).device.type == "cpu"
        assert torch.zeros(1).device.type == "meta"
    finally:
        leave.set()
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


@pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")
def test_a_fit_measures_its_model_on_the_device_of_its_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Without a GPU: the order. The model comes back to the CPU after everything was measured.
    happened: list[str] = []
    moved, measured = torch.nn.Module.to, fit_module._fidelity

    def to(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        happened.append("moved")
        return moved(self, *args, **kwargs)

    def fidelity(*args: Any) -> Any:
        happened.append("measured")
        return measured(*args)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    monkeypatch.setattr(fit_module, "_fidelity", fidelity)
    config = FitConfig("linear", gradient_steps=4, validate_every=2)
    fit_episodes(real_episodes("CartPole-v1", 10, seed=3), real_spec("CartPole-v1"), config)
    assert happened[:3] == ["moved", "measured", "moved"]
