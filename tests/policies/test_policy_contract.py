"""Every kind of policy: the same seeds give the same actions, in each environment, in copies and in processes."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO, SAC

from world_env.collection.exploration import make_exploration
from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
from world_env.errors import (
    InvalidActionError,
    InvalidOptionError,
    ResetNeededError,
    SpaceMismatchError,
    StageError,
)
from world_env.models.rssm.model import RssmConfig
from world_env.policies.config import PolicyExploration
from world_env.policies.function_policy import FunctionPolicy, LoggedActionsPolicy
from world_env.policies.held_policy import HeldPolicy
from world_env.policies.latent_policy import LatentEncoder, attach_encoder, encoder_of
from world_env.policies.loading import as_policy, register_policy_kind
from world_env.policies.mixture_policy import MixturePolicy
from world_env.policies.protocol import Policy
from world_env.policies.random_policy import EpsilonRandomPolicy, RandomPolicy
from world_env.policies.saved_policy import load_policy, save_policy
from world_env.policies.sb3_policy import SB3Policy
from world_env.policies.stuck_sensors_policy import StuckSensorsPolicy
from world_env.real.real_env import spec_of
from world_env.spec import EnvConfig
from world_env.twin.twin import Twin

PENDULUM = EnvConfig("Pendulum-v1")
SPEC = spec_of(PENDULUM)
SPACE = SPEC.action_space


@pytest.fixture(scope="module")
def latent_model() -> PPO:
    config = RssmConfig(
        deter=12, groups=2, classes=3, hidden=12, depth=2, members=2, window=4, context=2
    )
    twin = Twin.untrained(SPEC, "rssm", config)
    model = PPO("MlpPolicy", WorldModelSB3VecEnv(twin, 2, observation_mode="latent"), seed=0)
    attach_encoder(model, LatentEncoder(twin, "latent"))
    return model


def trained(kind: Any = PPO, policy: str = "MlpPolicy", **arguments: Any) -> Any:
    return kind(policy, gym.make("Pendulum-v1"), seed=0, **arguments)


def recurrent() -> Any:
    from sb3_contrib import RecurrentPPO

    return trained(RecurrentPPO, "MlpLstmPolicy", policy_kwargs={"lstm_hidden_size": 8})


def sbx() -> Any:
    from sbx import SAC as JaxSAC

    return trained(JaxSAC)


def torque(observations: np.ndarray) -> np.ndarray:
    return np.clip(observations[:, :1], -2, 2)


KINDS: dict[str, Callable[[], Policy]] = {
    "random": lambda: RandomPolicy(SPACE),
    "held": lambda: HeldPolicy(SPACE, 3),
    "function": lambda: FunctionPolicy(torque),
    "logged": lambda: LoggedActionsPolicy([np.full((3, 1), i, np.float32) for i in range(8)]),
    "epsilon": lambda: EpsilonRandomPolicy(FunctionPolicy(torque), SPACE, 0.5),
    "sb3": lambda: SB3Policy(trained()),
    "sampled": lambda: SB3Policy(trained(), deterministic=False),
    "gsde": lambda: SB3Policy(trained(use_sde=True), deterministic=False),
    "squashed": lambda: SB3Policy(trained(SAC), deterministic=False),
    "recurrent": lambda: SB3Policy(recurrent()),
    "recurrent, sampled": lambda: SB3Policy(recurrent(), deterministic=False),
    "stuck sensors": lambda: StuckSensorsPolicy(SB3Policy(trained()), np.zeros(3), np.ones(3), 0.5),
    "mixture": lambda: MixturePolicy([RandomPolicy(SPACE), SB3Policy(recurrent())], [1, 1]),
}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("sbx", "sbx, sampled")]


@pytest.fixture(scope="module", params=[*KINDS, "latent", "latent, sampled", *SLOW])
def policy(request: pytest.FixtureRequest, latent_model: PPO) -> Policy:
    if "sbx" in request.param:
        return SB3Policy(sbx(), deterministic="sampled" not in request.param)
    if request.param in KINDS:
        return KINDS[request.param]()
    return as_policy(latent_model, SPEC, deterministic="sampled" not in request.param)


def observations(number: int, steps: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(steps, number, 3)).clip(-1, 1).astype(np.float32)


def played(policy: Policy, seen: np.ndarray, rows: list[int], seeds: list[int]) -> np.ndarray:
    """Actions (T, R, 1) of the environments `rows` on the observations (T, N, 3)."""
    index = np.array(rows)
    policy.reset(index, seeds)
    return actions_on(policy, seen, index)


def actions_on(policy: Policy, seen: np.ndarray, index: np.ndarray) -> np.ndarray:
    taken = []
    for observation in seen:
        taken.append(policy.act(observation[index], index))
        policy.executed(taken[-1], index)
    return np.stack(taken)


def same(one: np.ndarray, other: np.ndarray) -> None:
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_actions_are_in_the_space_and_repeat(policy: Policy) -> None:
    seen = observations(3, 6)
    fresh = policy.fork(1)
    one = played(policy.fork(1), seen, [0, 1, 2], [5, 6, 7])
    assert one.shape == (6, 3, 1) and one.dtype == np.float32
    assert all(SPACE.contains(action) for step in one for action in step)
    same(one, played(fresh, seen, [0, 1, 2], [5, 6, 7]))


def test_an_environment_does_not_depend_on_the_others(policy: Policy) -> None:
    if isinstance(policy, MixturePolicy):  # its episodes share their steps
        return
    seen = observations(4, 6)
    together = played(policy.fork(1), seen, [0, 1, 2, 3], [5, 6, 7, 8])
    same(together[:, [2]], played(policy.fork(1), seen, [2], [7]))
    # Only some environments of a call start an episode.
    some = policy.fork(1)
    some.reset(np.array([1]), [6])
    first = actions_on(some, seen[:2], np.array([1]))
    some.reset(np.array([3]), [8])
    rest = [some.act(seen[i, [1, 3]], np.array([1, 3])) for i in (2, 3)]
    same(first, together[:2, [1]])
    same(rest[0][0], together[2, 1])


def test_a_fork_goes_on_as_environment_0_would(policy: Policy) -> None:
    seen = observations(1, 6)
    own = policy.fork(1)
    played(own, seen[:3], [0], [5])
    ahead = own.fork(2)
    forked = actions_on(ahead, np.repeat(seen[3:], 2, 1), np.arange(2))
    alone = actions_on(own, seen[3:], np.arange(1))
    same(forked[:, [0]], alone)
    same(forked[:, [1]], alone)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda p: cloudpickle.loads(cloudpickle.dumps(p))])
def test_a_copy_acts_as_the_policy(policy: Policy, how: Callable[[Policy], Policy]) -> None:
    seen = observations(2, 4)
    own = policy.fork(1)
    played(own, seen[:2], [0, 1], [5, 6])
    other = how(own)
    same(actions_on(own, seen[2:], np.arange(2)), actions_on(other, seen[2:], np.arange(2)))


def test_a_latent_policy_acts_in_another_process(latent_model: PPO, tmp_path: Path) -> None:
    seen = observations(2, 4)
    own = as_policy(latent_model, SPEC)
    (tmp_path / "policy.pkl").write_bytes(pickle.dumps(own.fork(1)))
    folder = save_policy(latent_model, tmp_path / "policy", trained_in="learned")
    np.save(tmp_path / "seen.npy", seen)
    code = """
import pickle, sys
import numpy as np
from world_env.policies import as_policy
for policy in (pickle.load(open("policy.pkl", "rb")), as_policy("policy")):
    seen, rows, taken = np.load("seen.npy"), np.arange(2), []
    policy.reset(rows, [5, 6])
    for observation in seen:
        taken.append(policy.act(observation, rows))
        policy.executed(taken[-1], rows)
    print(np.array(taken).ravel().tolist())
"""
    lines = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    expected = played(own, seen, [0, 1], [5, 6])
    for line in lines:
        same(np.array(eval(line)).reshape(expected.shape), expected)
    assert len(lines) == 2
    for model in (load_policy(folder), copy.deepcopy(load_policy(folder))):
        encoder = encoder_of(model)
        assert encoder is not None and encoder.mode == "latent"


def test_a_latent_policy_of_other_spaces_is_refused(latent_model: PPO) -> None:
    assert isinstance(as_policy(latent_model, SPEC), Policy)
    with pytest.raises(SpaceMismatchError, match="observation_space"):
        as_policy(latent_model, spec_of(EnvConfig("CartPole-v1")))


@pytest.mark.parametrize(
    "kind",
    [
        "random",
        "held",
        "logged",
        "epsilon",
        "sb3",
        "recurrent",
        "stuck sensors",
        "mixture",
        "latent",
    ],
)
def test_acting_before_a_reset_is_a_named_error(kind: str, latent_model: PPO) -> None:
    policy = as_policy(latent_model) if kind == "latent" else KINDS[kind]()
    with pytest.raises(ResetNeededError, match=r"call reset\(env_indices, seeds\) first"):
        policy.fork(1).act(observations(1, 1)[0], np.array([9]))


def test_functions_may_take_the_indices_of_the_environments() -> None:
    policy = as_policy(lambda seen, rows: rows[:, None].astype(np.float32))
    assert policy.act(np.zeros((2, 3)), np.array([4, 7])).tolist() == [[4.0], [7.0]]


@pytest.mark.parametrize("name", ["nothing", "no.module:f", "math:nothing"])
def test_a_function_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(InvalidOptionError, match=r"expected \"module:function\""):
        FunctionPolicy.named(name)


@pytest.mark.parametrize(
    "make", [trained, lambda: trained(SAC), recurrent, pytest.param(sbx, marks=pytest.mark.slow)]
)
def test_zips_of_all_libraries_are_policies(make: Callable[[], Any], tmp_path: Path) -> None:
    seen = observations(5, 1)[0]
    for number, model in enumerate((make(),)):
        model.save(tmp_path / f"{number}.zip")
        zipped = as_policy(tmp_path / f"{number}.zip", SPEC)
        folder = as_policy(save_policy(model, tmp_path / str(number), trained_in="real"), SPEC)
        rows = np.arange(5)
        expected = model.predict(seen, deterministic=True)[0]
        for policy in (zipped, folder):
            policy.reset(rows, range(5))
            same(policy.act(seen, rows), expected)
    with pytest.raises(SpaceMismatchError, match="observation_space"):
        as_policy(tmp_path / "0.zip", spec_of(EnvConfig("CartPole-v1")))
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    with pytest.raises(StageError, match="not a model that Stable-Baselines3 saved"):
        as_policy(tmp_path / "bad.zip")
    with pytest.raises(StageError, match="no such file"):
        as_policy(tmp_path / "missing.zip")


def load_constant(folder: Any, spec: Any, *, deterministic: bool = True) -> Policy:
    return FunctionPolicy(lambda seen: np.full((len(seen), 1), 0.5, np.float32))


def test_a_kind_of_saved_policies_can_be_registered(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text('{"kind": "constant"}')
    with pytest.raises(InvalidOptionError, match="kind 'constant', expected one of sb3"):
        as_policy(tmp_path)
    with pytest.raises(InvalidOptionError, match="expected 'module:function'"):
        register_policy_kind("constant", "load_constant")
    sys.modules["constant_policies"] = sys.modules[__name__]
    register_policy_kind("constant", "constant_policies:load_constant")
    exploring = make_exploration(PolicyExploration(path=str(tmp_path)), SPEC)
    for policy in (as_policy(tmp_path, SPEC), exploring):
        assert policy.act(np.zeros((2, 3)), np.arange(2)).tolist() == [[0.5], [0.5]]


def test_a_function_that_returns_no_action_per_observation_is_named() -> None:
    observations = np.zeros((2, 3), np.float32)
    for wrong in (None, 1.0, np.zeros(3)):
        policy = FunctionPolicy(lambda seen, wrong=wrong: wrong)
        with pytest.raises(InvalidActionError, match="expected one action for each of 2 obs"):
            policy.act(observations, np.arange(2))
