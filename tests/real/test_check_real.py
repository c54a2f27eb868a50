"""The dry run of a real environment: one step, the same seed twice, once in a process."""

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hand_written import OnePort, Plain, faulty

from world_env.collection.collect import collect
from world_env.collection.config import CollectConfig
from world_env.errors import EnvApiError, StageError
from world_env.real import StepLedger, check_real, spec_of
from world_env.spec import EnvConfig, WrapperConfig


def test_it_takes_one_step_in_a_process() -> None:
    ledger = StepLedger()
    spec = check_real("Plain-v0", ledger=ledger)
    assert ledger.by_purpose == {"validate": 1}
    assert check_real(EnvConfig("Plain-v0"), ledger=ledger) == spec == spec_of("Plain-v0")
    # Another time limit is the same environment, other arguments are not.
    assert check_real(EnvConfig("Plain-v0", horizon=7), ledger=ledger).horizon == 7
    assert ledger.by_purpose == {"validate": 1}
    check_real(EnvConfig("Plain-v0", reset_options={"a": 1}), ledger=ledger)
    assert ledger.by_purpose == {"validate": 2}


def test_an_id_that_is_registered_anew_is_checked_anew() -> None:
    ledger = StepLedger()
    try:
        for number in (1, 2):
            gym.register("Again-v0", entry_point=faulty({}), max_episode_steps=10 * number)
            assert check_real("Again-v0", ledger=ledger).horizon == 10 * number
            del gym.registry["Again-v0"]
    finally:
        gym.registry.pop("Again-v0", None)
    assert ledger.by_purpose == {"validate": 2}


def test_of_one_port_never_two_are_open(tmp_path: Path) -> None:
    OnePort.made = 0
    check_real("OnePort-v0")
    assert OnePort.made == 2 and not OnePort.open_now
    store = collect(CollectConfig("OnePort-v0", tmp_path / "d", steps=50))
    assert store.steps == 50 and not OnePort.open_now


def test_a_fault_in_the_first_step_closes_the_environment() -> None:
    class Broken(OnePort):
        def step(self, action: Any) -> Any:
            return self.seen(), 1.0, False, {}

    ledger = StepLedger()
    with pytest.raises(EnvApiError, match="4 values"):
        check_real(EnvConfig(Broken, horizon=9), ledger=ledger)
    assert ledger.by_purpose == {"validate": 1} and not OnePort.open_now
    # It has not passed.
    with pytest.raises(EnvApiError, match="4 values"):
        check_real(EnvConfig(Broken, horizon=9), ledger=ledger)


class Unseeded(Plain):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=None)


class Drifting(Plain):
    """Statistics under names of its own: the same in each new environment, another one after a step."""

    shift = 0.0

    def step(self, action: Any) -> Any:
        self.shift += 0.1
        return super().step(action)

    def seen(self) -> Any:
        return super().seen() + np.float32(self.shift)


class Numbered(Plain):
    """Each new environment shows another first observation."""

    made = 0

    def __init__(self) -> None:
        Numbered.made += 1
        self.number = Numbered.made

    def seen(self) -> Any:
        return super().seen() + np.float32(self.number)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Unseeded, r"a second reset: probably the reset does not use its seed"),
        (Drifting, r"a second reset: probably it depends on earlier episodes"),
        (Numbered, r"a second environment: probably the reset does not use its seed"),
        (lambda: gym.wrappers.DtypeObservation(Unseeded(), np.float32), "does not use its seed"),
    ],
)
def test_a_seed_that_does_not_give_the_first_observation_is_said(kind: Any, words: str) -> None:
    with pytest.warns(UserWarning, match=words):
        check_real(EnvConfig(kind, horizon=9))
    with pytest.warns(
        UserWarning, match=r"returns a different first observation in a second reset"
    ):
        check_real(EnvConfig(Unseeded(), horizon=9))


def test_reproducible_environments_are_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for real in ("Plain-v0", "CartPole-v1", EnvConfig(Plain(), horizon=9)):
            check_real(real)


def test_a_wrapper_that_repeats_actions_needs_a_time_limit_of_its_own() -> None:
    wrapper = WrapperConfig("gymnasium.wrappers:MaxAndSkipObservation", {"skip": 4})
    real = EnvConfig("Plain-v0", wrappers=(wrapper,))
    ledger = StepLedger()
    with pytest.raises(StageError, match=r"takes 4 steps.*limit of 50 steps.*horizon=13 "):
        check_real(real, ledger=ledger)
    assert ledger.by_purpose == {"validate": 4}
    assert check_real(real.replace(horizon=13)).horizon == 13
    assert check_real(EnvConfig("Plain-v0", action_chunk=4)).horizon == 13


def test_a_finished_or_resumed_collection_takes_no_step_to_check(tmp_path: Path) -> None:
    from world_env.real.api_check import forget_checks

    config = CollectConfig("Plain-v0", tmp_path / "d", steps=60)
    collect(config)
    for more in (0, 60):
        forget_checks()
        ledger = StepLedger()
        collect(config.replace(steps=60 + more), ledger=ledger)
        assert ledger.by_purpose == ({"collect": more} if more else {})


def test_a_wrong_environment_costs_a_collection_one_step(tmp_path: Path) -> None:
    ledger = StepLedger()
    wrong = faulty({"step": lambda self, action: (self.seen(), 1.0, False, {})})
    with pytest.raises(StageError, match="4 values"):
        collect(CollectConfig(EnvConfig(wrong, horizon=9), tmp_path / "d", steps=99), ledger=ledger)
    assert ledger.by_purpose == {"validate": 1}
