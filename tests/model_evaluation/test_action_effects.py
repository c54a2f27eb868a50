"""Exact twins know what every action changes, blind and inverted ones do not; what cannot be put back says so."""

import dataclasses
import json
from typing import Any

import counting
import numpy as np
import pytest
from oracle import OracleConfig, PendulumOracle, oracle_twin, still_twin
from torch import Tensor

from world_env.batch import Context, Observation, State
from world_env.errors import InvalidOptionError, SpaceMismatchError
from world_env.model_evaluation.action_effects import _bookmark, measure_action_effects
from world_env.models.base import Prediction
from world_env.real.real_env import make_real, spec_of
from world_env.real.step_ledger import StepLedger
from world_env.rng import CounterRNG
from world_env.spec import EnvConfig, WrapperConfig
from world_env.twin.twin import Twin
from world_env.types import JSON

PENDULUM = EnvConfig("Pendulum-v1")
SCORES = ("effect_size", "effect_error", "cosine", "rank", "pairs")


def effects(twin: Twin, real: EnvConfig, **options: Any) -> JSON:
    return measure_action_effects(twin, real, ledger=StepLedger(), **{"states": 6} | options)


@pytest.mark.parametrize("real_id", ["CartPole-v1", "Pendulum-v1"])
def test_an_exact_twin_knows_every_effect(real_id: str) -> None:
    told = effects(oracle_twin(real_id), EnvConfig(real_id), states=20)
    json.dumps(told, allow_nan=False)
    assert told["reason"] is None and told["steps"] == [1, 5, 20]
    assert (told["states"], told["actions"]) == (20, 4)
    assert told["pairs"][0] == 20 * 6 >= told["pairs"][1] >= told["pairs"][2] > 0
    assert max(told["effect_error"]) < 1e-3
    assert min(told["cosine"]) > 0.9999 and min(told["effect_size"]) > 0.01
    # Most pairs of a Discrete action space's first actions are no pair: rounding gives them an order.
    assert min(told["rank"][1:]) > 0.99


def test_a_twin_blind_to_actions_misses_all_of_it() -> None:
    told = effects(still_twin(spec_of(PENDULUM)), PENDULUM)
    assert told["effect_error"] == [1.0, 1.0, 1.0]
    assert told["cosine"] == [0.0, 0.0, 0.0] and told["rank"] == [None, None, None]


def test_a_twin_that_takes_actions_the_wrong_way_round_is_worse_than_blind() -> None:
    class Inverted(PendulumOracle):
        def step(self, state: State, action: Tensor, **options: Any) -> tuple[State, Prediction]:
            return super().step(state, -action, **options)

    twin = oracle_twin("Pendulum-v1")
    model = Inverted(twin.spec, OracleConfig()).eval()
    told = effects(dataclasses.replace(twin, model=model), PENDULUM)
    assert told["effect_error"][0] == pytest.approx(2.0, abs=0.05)
    assert told["cosine"][0] < -0.95 and told["rank"][0] < -0.95


def test_what_a_twin_draws_at_a_start_is_the_same_for_all_actions() -> None:
    class Displaced(PendulumOracle):
        def encode(self, context: Context, *, rng: CounterRNG) -> State:
            return super().encode(context, rng=rng) | {"off": rng.normal(1)}

        def step(self, state: State, action: Tensor, **options: Any) -> tuple[State, Prediction]:
            arrived, said = super().step({"physics": state["physics"]}, action, **options)
            return arrived | {"off": state["off"]}, said

        def decode(self, state: State) -> Observation:
            seen = super().decode({"physics": state["physics"]})
            return {key: value + state["off"] for key, value in seen.items()}

    twin = oracle_twin("Pendulum-v1")
    model = Displaced(twin.spec, OracleConfig()).eval()
    told = effects(dataclasses.replace(twin, model=model), PENDULUM)
    assert max(told["effect_error"]) < 1e-3


def test_every_step_of_every_copy_is_counted_as_an_evaluation() -> None:
    ledger = StepLedger()
    counting.Watched.taken = 0
    real = PENDULUM.replace(wrappers=(WrapperConfig("counting:Watched"),))
    measure_action_effects(oracle_twin("Pendulum-v1"), real, ledger=ledger, states=3, actions=2)
    assert ledger.by_purpose == {"evaluate": counting.Watched.taken}
    # 3 states, 10 steps apart, with 2 x 20 steps each; 10 steps to one more, and 20 steps played twice.
    assert counting.Watched.taken == 3 * (10 + 2 * 20) + 10 + 2 * 20


@pytest.mark.parametrize("real_id", ["CartPole-v1", "Hopper-v5", "Ant-v5"])
def test_an_environment_is_put_back_exactly_and_often_with_its_wrappers(real_id: str) -> None:
    real = EnvConfig(real_id, wrappers=(WrapperConfig("counting:Remembering"),))
    assert effects(still_twin(spec_of(real)), real, states=2)["reason"] is None
    env = make_real(real, purpose="evaluate", ledger=StepLedger())
    env.action_space.seed(0)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    back = _bookmark(env)
    actions = [env.action_space.sample() for _ in range(6)]
    seen = []
    for stand in (lambda: env, back, back):
        here = stand()
        seen.append([here.step(action)[0].copy() for action in actions])
    np.testing.assert_array_equal(seen[1], seen[2])
    np.testing.assert_array_equal(seen[0], seen[1])
    env.close()


@pytest.mark.parametrize(
    ("wrapper", "said"), [("Sealed", "cannot be copied"), ("Forgetful", "differ by")]
)
def test_what_cannot_be_put_back_is_not_measured(wrapper: str, said: str) -> None:
    real = PENDULUM.replace(wrappers=(WrapperConfig(f"counting:{wrapper}"),))
    told = effects(oracle_twin("Pendulum-v1"), real)
    assert said in told["reason"]
    assert [told[name] for name in SCORES] == [None] * len(SCORES)


def test_actions_without_an_effect_have_no_score() -> None:
    kwargs = {"parts": True, "lengths": [100, 101], "max_episode_steps": 100}
    real = EnvConfig("counting:Counting-v0", kwargs)
    told = effects(still_twin(spec_of(real)), real)
    # Its actions change the reward and nothing that is seen.
    assert told["reason"] is None and told["effect_size"] == [None] * 3
    assert told["pairs"][0] == 36


def test_impossible_questions_are_refused() -> None:
    twin = oracle_twin("Pendulum-v1")
    with pytest.raises(InvalidOptionError, match="actions is 1, expected at least 2"):
        effects(twin, PENDULUM, actions=1)
    with pytest.raises(SpaceMismatchError):
        effects(twin, EnvConfig("CartPole-v1"))
