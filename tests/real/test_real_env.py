"""Real environments are made, described and counted in one place."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from world_env.errors import (
    InvalidActionError,
    InvalidOptionError,
    MissingExtraError,
    SpaceMismatchError,
    StageError,
    UnsupportedSpaceError,
)
from world_env.real.real_env import make_real, make_real_vec, spec_of
from world_env.real.step_ledger import StepLedger
from world_env.registration import register_all
from world_env.spec import EnvConfig, WorldSpec, WrapperConfig

COUNTING = EnvConfig("counting:Counting-v0")


def play(env: gym.Env, steps: int) -> None:
    env.reset(seed=0)
    for _ in range(steps):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()


def test_every_step_is_counted_under_its_purpose() -> None:
    ledger = StepLedger()
    play(make_real(COUNTING, purpose="collect", ledger=ledger), 17)
    play(make_real(COUNTING, purpose="judge", ledger=ledger), 5)
    assert ledger.by_purpose == {"collect": 17, "judge": 5}
    assert ledger.total() == 17
    assert ledger.total(exclude=()) == 22


def test_vector_steps_are_counted_row_by_row() -> None:
    ledger = StepLedger()
    env = make_real_vec(COUNTING, 3, purpose="validate", ledger=ledger)
    env.reset()
    for _ in range(20):
        _, _, _, infos = env.step(np.zeros(3, int))
    assert ledger.by_purpose == {"validate": 60}
    env.seed(0)
    env.close()
    assert all(isinstance(info, dict) for info in infos)


def test_an_unknown_purpose_is_refused_before_any_step() -> None:
    with pytest.raises(ValueError, match="evaluate"):
        make_real(COUNTING, purpose="fun", ledger=StepLedger())


def test_a_ledger_on_disk_never_forgets_a_step(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "steps.json"
    ledger = StepLedger(path)
    for n in range(1, 350):
        ledger.count("collect")
        # What a process killed here would leave behind.
        assert n <= json.loads(path.read_text())["collect"] <= n + 100
    killed = StepLedger(path).by_purpose["collect"]
    assert 349 <= killed <= 449
    ledger.save()
    assert StepLedger(path).by_purpose == {"collect": 349}
    assert StepLedger.from_json(ledger.to_json()).by_purpose == ledger.by_purpose


def test_a_ledger_passes_its_steps_on_to_a_wider_one() -> None:
    whole = StepLedger()
    StepLedger(parent=whole).count("collect", 3)
    StepLedger(parent=whole).count("select", 2)
    assert whole.by_purpose == {"collect": 3, "select": 2}


@pytest.mark.parametrize("text", ["[]", '{"fun": 3}', '{"collect": -1}', '{"collect": true}', "{"])
def test_a_damaged_ledger_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "steps.json").write_text(text)
    with pytest.raises(StageError, match="is not a step ledger"):
        StepLedger(tmp_path / "steps.json")


@pytest.mark.parametrize(
    ("env_id", "horizon", "seconds"),
    [
        ("CartPole-v1", 500, 0.02),
        ("Pendulum-v1", 200, 0.05),
        ("MountainCarContinuous-v0", 999, 1 / 30),
        ("counting:Counting-v0", 10, 0.25),
    ],
)
def test_the_spec_is_read_from_the_environment(env_id: str, horizon: int, seconds: float) -> None:
    spec = spec_of(EnvConfig(env_id))
    assert spec.horizon == horizon
    assert spec.seconds_per_step == pytest.approx(seconds)
    assert spec.real_id == env_id.rpartition(":")[2]
    again = WorldSpec.from_json(json.loads(json.dumps(spec.to_json(), allow_nan=False)))
    assert again == spec
    made = gym.make(gym.envs.registration.EnvSpec.from_json(spec.real))
    assert made.observation_space == spec.observation_space


def test_arguments_and_wrappers_of_the_user_are_applied() -> None:
    real = EnvConfig(
        "counting:Counting-v0",
        {"lengths": [3, 4], "max_episode_steps": 50},
        (
            WrapperConfig("gymnasium.wrappers:FlattenObservation"),
            WrapperConfig("counting:Doubled"),
        ),
    )
    assert EnvConfig.from_json(json.loads(json.dumps(real.to_json())), where="the test") == real
    assert spec_of(real).horizon == 50
    env = make_real(real, purpose="collect", ledger=StepLedger())
    env.reset(seed=0)
    rewards = [env.step(1)[1] for _ in range(3)]
    assert rewards == [2.0, 202.0, 402.0]


def test_wrappers_take_arguments() -> None:
    limit = WrapperConfig("gymnasium.wrappers:TimeLimit", {"max_episode_steps": 3})
    scaled = WrapperConfig("gymnasium.wrappers:RescaleAction", {"min_action": -1, "max_action": 1})
    real = EnvConfig("Pendulum-v1", wrappers=(limit, scaled))
    tree = json.loads(json.dumps(real.to_json()))
    assert EnvConfig.from_json(tree, where="the test") == real
    env = make_real(real, purpose="collect", ledger=StepLedger())
    assert env.action_space.high == 1.0
    env.reset(seed=0)
    assert [env.step(env.action_space.sample())[3] for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(
    ("name", "kwargs", "named"),
    [
        ("gymnasium.wrappers:TimeLimit", {"max_steps": 3}, "max_steps"),
        ("gymnasium.wrappers:TimeLimit", {}, "max_episode_steps"),
        ("gymnasium.wrappers:Nothing", {"a": 3}, "Nothing"),
    ],
)
def test_arguments_that_a_wrapper_does_not_take_are_named(
    name: str, kwargs: dict[str, int], named: str
) -> None:
    with pytest.raises(StageError, match=named):
        spec_of(EnvConfig("Pendulum-v1", wrappers=(WrapperConfig(name, kwargs),)))


@pytest.mark.parametrize("wrapper", ["gymnasium.wrappers:TimeLimit", None])
def test_a_wrapper_that_is_no_wrapper_config_is_refused(wrapper: Any) -> None:
    with pytest.raises(InvalidOptionError, match=r"expected WrapperConfig\("):
        EnvConfig("Pendulum-v1", wrappers=(wrapper,))


def test_what_a_wrapper_of_ours_refuses_keeps_its_own_name() -> None:
    latent = WrapperConfig("world_env.wrappers:LatentObservation", {"twin": "cartpole"})
    with pytest.raises(SpaceMismatchError, match="real environment's observation_space"):
        spec_of(EnvConfig("Pendulum-v1", wrappers=(latent,)))


def test_an_unknown_id_lists_near_matches() -> None:
    with pytest.raises(StageError, match=r"unknown environment id 'CartPol-v1'.*CartPole-v1"):
        spec_of(EnvConfig("CartPol-v1"))
    with pytest.raises(StageError, match=r"no_such_module.*module:Id"):
        spec_of(EnvConfig("no_such_module:Thing-v0"))


@pytest.fixture
def learned_ids() -> Iterator[list[str]]:
    """Ids of learned environments: those of the package, and ids of a user in every form of an entry point."""
    from world_env.envs.env import WorldModelEnv

    class Own(WorldModelEnv):
        pass

    register_all()
    entries = {
        "Pendulu-v1": "world_env:WorldModelEnv",
        "Pendulums-v1": WorldModelEnv,
        "Pendulumx-v1": Own,
    }
    for name, entry in entries.items():
        gym.register(name, entry_point=entry, kwargs={"twin": "cartpole"})
    yield [name for name in gym.registry if name.startswith("WorldModel")] + list(entries)
    for name in entries:
        del gym.registry[name]


@pytest.mark.parametrize(
    "wrong",
    ["CartPol-v1", "WorldModel/CartPol-v0", "WorldMode/CartPole-v0", "Pendulum-v9", "Pendul-v1"],
)  # fmt: skip
def test_no_learned_id_is_suggested_as_a_real_one(wrong: str, learned_ids: list[str]) -> None:
    assert {"WorldModel-v0", "WorldModel/CartPole-v0"} < set(learned_ids)
    with pytest.raises(StageError) as caught:
        spec_of(EnvConfig(wrong))
    rest = str(caught.value).replace(repr(wrong), "")
    assert not [name for name in learned_ids if re.search(rf"(?<!\w){name}(?!\w)", rest)]
    assert "WorldModel" not in rest


def test_a_learned_id_is_refused_as_a_real_one(learned_ids: list[str]) -> None:
    others = ["world_env:WorldModel-v0", "WorldModel/CartPole", "WorldModel/CartPole-v9"]
    for name in [*learned_ids, *others]:
        ledger = StepLedger()
        with pytest.raises(StageError, match=rf"{name}' is a learned environment.*real env"):
            make_real(EnvConfig(name), purpose="collect", ledger=ledger)
        assert ledger.by_purpose == {}


def test_a_function_that_makes_a_twin_is_refused_as_a_real_environment() -> None:
    gym.register("Disguised-v0", entry_point=lambda **_: gym.make("WorldModel-v0").unwrapped)
    try:
        with pytest.raises(StageError, match="'Disguised-v0' is a learned environment"):
            spec_of(EnvConfig("Disguised-v0"))
    finally:
        del gym.registry["Disguised-v0"]


def test_impossible_arguments_are_named() -> None:
    with pytest.raises(StageError, match="wings"):
        spec_of(EnvConfig("CartPole-v1", {"wings": 2}))
    with pytest.raises(ValueError, match="strict JSON"):
        EnvConfig("CartPole-v1", {"mass": float("nan")})


@pytest.mark.parametrize("name", ["json:NoSuch", "no_such_module:W", "json:__name__"])
def test_an_impossible_wrapper_is_named(name: str) -> None:
    with pytest.raises(StageError, match=name.partition(":")[2] or name):
        spec_of(EnvConfig("CartPole-v1", {}, (WrapperConfig(name),)))


def test_a_missing_simulator_comes_with_advice() -> None:
    with pytest.raises(MissingExtraError, match="Install"):
        spec_of(EnvConfig("counting:CountingMissing-v0"))


def test_an_unsupported_space_is_named() -> None:
    with pytest.raises(UnsupportedSpaceError, match="'0' is a Sequence"):
        spec_of(EnvConfig("counting:CountingNested-v0"))


def test_no_step_is_taken_with_an_action_that_is_not_finite() -> None:
    ledger = StepLedger()
    env = make_real(EnvConfig("Pendulum-v1"), purpose="collect", ledger=ledger)
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match="NaN or infinite values: no step was taken"):
        env.step(np.array([np.nan], np.float32))
    assert ledger.total() == 0
    env.close()
