"""The public checks: every family passes them, and broken ones do not."""

import dataclasses
import os
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from oracle import (
    ORACLES,
    CartPoleOracle,
    OracleConfig,
    PendulumOracle,
    oracle_twin,
    real_spec,
    real_starts,
)
from torch import Tensor

from world_env.batch import Observation, State
from world_env.codec import Codec
from world_env.envs.vector_env import WorldModelVectorEnv
from world_env.errors import CheckError, WorldEnvError
from world_env.models.base import Prediction
from world_env.models.registry import FAMILIES, load_family
from world_env.rng import CounterRNG
from world_env.spec import Angle, WorldSpec
from world_env.testing.model_checks import check_world_model
from world_env.testing.vector_env_checks import check_vector_env
from world_env.twin.twin import Twin

BUILT_IN = [family for family in FAMILIES if not family.startswith("oracle")]
MODES = list(AutoresetMode)


def awake(twin: Twin) -> Twin:
    """Untrained families start as "nothing happens": random weights make all that could go wrong visible."""
    generator = torch.Generator().manual_seed(0)
    for parameter in twin.model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.1 * noise
    return twin


@pytest.mark.parametrize("family", BUILT_IN)
def test_every_family_keeps_the_protocol(family: str, real_id: str) -> None:
    twin = awake(Twin.untrained(real_spec(real_id), family))

    def rebuild() -> torch.nn.Module:
        return load_family(family)(twin.spec, twin.model.config)

    check_world_model(twin.model, starts=real_starts(real_id), rebuild=rebuild)
    check_world_model(twin.model, rebuild=rebuild)


@pytest.mark.parametrize("family", BUILT_IN)
def test_every_family_keeps_the_protocol_with_angles(family: str) -> None:
    pendulum = real_spec("Pendulum-v1")
    angles = {"observation": (Angle(0, -1.0, 2.0), Angle(2, -8.0, 16.0))}
    twin = awake(Twin.untrained(dataclasses.replace(pendulum, angles=angles), family))
    assert twin.codec.shapes == {"observation": (5,)}
    check_world_model(twin.model, rebuild=lambda: load_family(family)(twin.spec, twin.model.config))


@pytest.mark.parametrize("family", BUILT_IN)
def test_what_a_simulator_steps_keeps_the_protocol_too(family: str, real_id: str) -> None:
    twin = awake(Twin.untrained(real_spec(real_id), family))
    fast = twin.model.for_inference()
    check_world_model(fast, starts=real_starts(real_id), differentiable=False)
    state = twin.model.encode(twin.starts, rng=CounterRNG.from_seed(0, len(twin.starts)))
    action = torch.zeros(len(twin.starts), Codec(twin.spec).action_size)
    with torch.no_grad():
        (arrived, said), (quick, quickly) = (
            model.step(
                state, action, rng=CounterRNG.from_seed(1, len(twin.starts)), uncertainty="full"
            )
            for model in (twin.model, fast)
        )
    for name, value in arrived.items():
        torch.testing.assert_close(quick[name], value, rtol=1e-4, atol=1e-5)
    for name in ("reward", "terminated", "terminal_reward", "uncertainty"):
        known, shown = getattr(said, name), getattr(quickly, name)
        assert (known is None) == (shown is None), name
        if known is not None:
            torch.testing.assert_close(shown, known, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_the_oracles_keep_the_protocol(real_id: str, noise: float) -> None:
    twin = oracle_twin(real_id, noise=noise)
    check_world_model(twin.model, starts=twin.starts, rebuild=lambda: twin.model)


@pytest.mark.parametrize("family", [*BUILT_IN, "oracle"])
@pytest.mark.parametrize("mode", MODES)
def test_every_family_keeps_the_vector_contract(family: str, mode: AutoresetMode) -> None:
    if family == "oracle":
        twin = oracle_twin("CartPole-v1", horizon=20)
    else:
        twin = awake(Twin.untrained(real_spec("CartPole-v1", horizon=20), family))
    for rows in (1, 3):
        check_vector_env(WorldModelVectorEnv(twin, rows, autoreset_mode=mode), steps=60)


@pytest.mark.parametrize("mode", MODES)
def test_the_vector_check_accepts_gymnasium(mode: AutoresetMode) -> None:
    makers = [lambda: gym.make("CartPole-v1")] * 3
    env = SyncVectorEnv(makers, autoreset_mode=mode)
    check_vector_env(env, steps=100)
    env.close()


class Remembers(CartPoleOracle):
    steps = 0

    def step(self, state: State, action: Tensor, **kwargs: object) -> tuple[State, Prediction]:
        self.steps += 1
        return super().step(state, action, **kwargs)


class RemembersInPrivate(CartPoleOracle):
    """Impure where few would look: `kind` says in what."""

    kind = "number"

    def __init__(self, spec: WorldSpec, config: OracleConfig) -> None:
        super().__init__(spec, config)
        self._steps: Any = {
            "number": 0,
            "list": [],
            "nothing": None,
            "dict": {"seen": torch.zeros(1)},
            "deque": deque(maxlen=3),
            "set": set(),
            "array": np.zeros(1),
        }[self.kind]

    def step(self, state: State, action: Tensor, **kwargs: object) -> tuple[State, Prediction]:
        if self.kind == "number":
            self._steps += 1
        elif self.kind == "nothing":
            self._steps = action
        elif self.kind == "dict":
            self._steps["seen"] += 1
        elif self.kind == "array":
            self._steps += 1
        elif self.kind == "set":
            self._steps.add(len(self._steps))
        else:
            self._steps.append(action)
        return super().step(state, action, **kwargs)


class HidesABuffer(CartPoleOracle):
    """A buffer that no state_dict shows."""

    def __init__(self, spec: WorldSpec, config: OracleConfig) -> None:
        super().__init__(spec, config)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def step(self, state: State, action: Tensor, **kwargs: object) -> tuple[State, Prediction]:
        self.seen += 1
        return super().step(state, action, **kwargs)


class Mutates(CartPoleOracle):
    def step(self, state: State, action: Tensor, **kwargs: object) -> tuple[State, Prediction]:
        result = super().step(state, action, **kwargs)
        state["physics"].add_(1.0)
        return result


class Mixes(CartPoleOracle):
    def step(self, state: State, action: Tensor, **kwargs: object) -> tuple[State, Prediction]:
        return super().step(state, action - action.mean(0), **kwargs)


class GlobalNoise(CartPoleOracle):
    def _noise(self, state: Tensor, rng: CounterRNG, temperature: float) -> Tensor:
        return 0.01 * torch.randn_like(state)


class Detaches(CartPoleOracle):
    def step(self, state: State, action: Tensor, **kwargs: object) -> tuple[State, Prediction]:
        with torch.no_grad():
            return super().step(state, action, **kwargs)


class DetachesTheState(PendulumOracle):
    def step(self, state: State, action: Tensor, **kwargs: object) -> tuple[State, Prediction]:
        arrived, prediction = super().step(state, action, **kwargs)
        return {"physics": arrived["physics"].detach()}, prediction


class DetachesTheReward(PendulumOracle):
    def step(self, state: State, action: Tensor, **kwargs: object) -> tuple[State, Prediction]:
        arrived, prediction = super().step(state, action, **kwargs)
        return arrived, dataclasses.replace(prediction, reward=prediction.reward.detach())


class DetachesTheDecoded(PendulumOracle):
    def decode(self, state: State) -> Observation:
        return {name: value.detach() for name, value in super().decode(state).items()}


class Grows(CartPoleOracle):
    def step(self, state: State, action: Tensor, **kwargs: object) -> tuple[State, Prediction]:
        arrived, prediction = super().step(state, action, **kwargs)
        return {**arrived, "more": arrived["physics"]}, prediction


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Remembers, "pure"),
        (Mutates, "changed the state"),
        (Mixes, "another row's action or state"),
        (GlobalNoise, "two results"),
        (Detaches, "gradient"),
        (Grows, "form of the state"),
    ],
)
def test_the_model_check_finds_faults(broken: type[CartPoleOracle], message: str) -> None:
    model = broken(real_spec("CartPole-v1"), OracleConfig())
    with pytest.raises(AssertionError, match=message):
        check_world_model(model, starts=real_starts("CartPole-v1"))


class FixedDtype(CartPoleOracle):
    def decode(self, state: State) -> Observation:
        return {name: value.float() for name, value in super().decode(state).items()}


class Extra(CartPoleOracle):
    """Returns the extras in `extras`, made from the reward."""

    extras: Any = staticmethod(lambda reward: {})

    def step(self, state: State, action: Tensor, **kwargs: object) -> tuple[State, Prediction]:
        arrived, prediction = super().step(state, action, **kwargs)
        return arrived, dataclasses.replace(prediction, extras=self.extras(prediction.reward))


class Conditioned(CartPoleOracle):
    conditioning = {"task": (2,)}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (FixedDtype, r"decode\(\).*float32, expected torch\.float64"),
        (Conditioned, "starts.*'task'"),
    ],
)
def test_the_model_check_covers_dtype_and_conditioning(broken: type, message: str) -> None:
    model = broken(real_spec("CartPole-v1"), OracleConfig())
    with pytest.raises(CheckError, match=message):
        check_world_model(model, starts=real_starts("CartPole-v1"))


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        (lambda reward: {"uncertainty": reward}, "'uncertainty', which `info` uses"),
        (lambda reward: {"_energy": reward}, "'_energy', which `info` uses"),
        (lambda reward: {"energy": reward.sum()}, r"'energy'\] is \(\), expected"),
        (lambda reward: {"energy": reward.sum().expand(len(reward))}, "extras energy"),
        (lambda reward: {"frame": reward}, r"'frame'\] has the shape"),
    ],
)
def test_the_model_check_covers_extras(
    extras: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Extra, "extras", staticmethod(extras))
    model = Extra(real_spec("CartPole-v1"), OracleConfig())
    with pytest.raises(CheckError, match=message):
        check_world_model(model, starts=real_starts("CartPole-v1"))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (lambda model: [{"params": [model.change.weight]}], "lacks the parameter change.bias"),
        (lambda model: [{"params": [*model.parameters(), model.change.bias]}], "bias 2 times"),
        (lambda model: [{"params": [torch.nn.Parameter(torch.ones(1))]}], "of another module"),
    ],
)
def test_the_model_check_covers_parameter_groups(
    groups: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = Twin.untrained(real_spec("CartPole-v1"), "linear").model.requires_grad_(True)
    monkeypatch.setattr(model, "parameter_groups", lambda: groups(model))
    with pytest.raises(CheckError, match=message):
        check_world_model(model, starts=real_starts("CartPole-v1"))


@pytest.mark.parametrize("family", BUILT_IN)
def test_every_family_keeps_the_protocol_in_float64(
    family: str, real_id: str, tmp_path: Path
) -> None:
    twin = awake(Twin.untrained(real_spec(real_id), family))
    twin.model.double()
    assert twin.model.dtype is torch.float64
    check_world_model(twin.model, starts=real_starts(real_id))
    twin.model.requires_grad_(False)
    folder = twin.save(tmp_path / "twin")
    back = Twin.load(folder)
    assert back.model.dtype is torch.float64 and back.fingerprint() == twin.fingerprint()
    assert Twin.load(folder, dtype=torch.float32).model.dtype is torch.float32
    envs = WorldModelVectorEnv(back, 2)
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    assert envs.simulator.snapshot().state.keys() and envs.simulator.dtype is torch.float64


@pytest.mark.parametrize("kind", ["number", "list", "nothing", "dict", "deque", "set", "array"])
def test_the_model_check_looks_into_private_attributes(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RemembersInPrivate, "kind", kind)
    model = RemembersInPrivate(real_spec("CartPole-v1"), OracleConfig())
    with pytest.raises(AssertionError, match=r"pure.*_steps"):
        check_world_model(model, starts=real_starts("CartPole-v1"))


def test_the_model_check_sees_hidden_buffers() -> None:
    model = HidesABuffer(real_spec("CartPole-v1"), OracleConfig())
    with pytest.raises(AssertionError, match=r"pure.*seen"):
        check_world_model(model, starts=real_starts("CartPole-v1"))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (DetachesTheState, "next observation.*detached"),
        (DetachesTheDecoded, "next observation.*detached"),
        (DetachesTheReward, "reward.*detached"),
    ],
)
def test_the_model_check_wants_each_gradient(broken: type, message: str) -> None:
    model = broken(real_spec("Pendulum-v1"), OracleConfig())
    starts = real_starts("Pendulum-v1")
    check_world_model(model, starts=starts, differentiable=False)
    with pytest.raises(AssertionError, match=message):
        check_world_model(model, starts=starts)


def test_the_vector_check_finds_faults() -> None:
    class Reuses(WorldModelVectorEnv):
        def step(self, actions: object) -> tuple:
            observation, *rest = super().step(actions)
            self.buffer = getattr(self, "buffer", observation)
            self.buffer[...] = observation
            return self.buffer, *rest

    class NoFinal(WorldModelVectorEnv):
        def step(self, actions: object) -> tuple:
            *rest, infos = super().step(actions)
            infos.pop("final_obs", None)
            return *rest, infos

    twin = oracle_twin("CartPole-v1", horizon=20)
    with pytest.raises(AssertionError, match="earlier was changed"):
        check_vector_env(Reuses(twin, 2))
    with pytest.raises(AssertionError, match="final_obs"):
        check_vector_env(NoFinal(twin, 2, autoreset_mode="same_step"))
    with pytest.raises(AssertionError, match="no episode ended"):
        check_vector_env(WorldModelVectorEnv(twin, 2), steps=3)


BROKEN = """
from oracle import CartPoleOracle, OracleConfig, oracle_twin, real_spec
from world_env import check_vector_env, check_world_model
from world_env.envs.vector_env import WorldModelVectorEnv
from world_env.errors import CheckError


class Mixes(CartPoleOracle):
    def step(self, state, action, **kwargs):
        return super().step(state, action - action.mean(0), **kwargs)


class OtherRewards(WorldModelVectorEnv):
    def step(self, actions):
        observation, rewards, *rest = super().step(actions)
        return observation, rewards.astype("float32"), *rest


assert False, "assert statements run: this is no python -O"
for check in (
    lambda: check_world_model(Mixes(real_spec("CartPole-v1"), OracleConfig())),
    lambda: check_vector_env(OtherRewards(oracle_twin("CartPole-v1", horizon=20), 2)),
):
    try:
        check()
    except CheckError as error:
        print(error)
"""


def test_the_checks_refuse_what_is_broken_without_assert_statements_too() -> None:
    tests = Path(__file__).resolve().parents[1]
    paths = os.pathsep.join([str(tests), str(tests.parent)])
    shown = subprocess.run(
        [sys.executable, "-O", "-c", BROKEN],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "another row's action or state changed a row" in shown
    assert "rewards is a ndarray float32, expected a numpy array of float64" in shown


def test_a_failed_check_is_an_error_of_the_package_and_an_assertion_error() -> None:
    assert issubclass(CheckError, WorldEnvError) and issubclass(CheckError, AssertionError)


def test_oracles_are_families() -> None:
    assert set(ORACLES.values()) <= set(FAMILIES)
