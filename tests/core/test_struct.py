"""Settings take the numbers of numpy and name what is no number."""

import json
from typing import Any

import numpy as np
import pytest

from world_env.collection.config import CollectConfig
from world_env.errors import InvalidOptionError
from world_env.fitting.config import FitConfig
from world_env.fitting.preconditions import check_family
from world_env.pipeline.config import BuildConfig
from world_env.rl.config import LearnConfig
from world_env.simulation.config import SimulatorConfig
from world_env.spec import EnvConfig, WrapperConfig

RECURSIVE: dict[str, Any] = {}
RECURSIVE["self"] = RECURSIVE


@pytest.mark.parametrize(
    ("settings", "name", "expected"),
    [
        (lambda: CollectConfig("CartPole-v1", "out", np.int64(5)), "steps", 5),
        (lambda: CollectConfig("CartPole-v1", "out", 1e5), "steps", 100_000),
        (lambda: CollectConfig("CartPole-v1", "out", 5, seed=np.array(3)), "seed", 3),
        (lambda: FitConfig(seed=np.uint8(3)), "seed", 3),
        (lambda: FitConfig(gradient_steps=np.float64(60)), "gradient_steps", 60),
        (lambda: FitConfig(learning_rate=np.float32(0.5)), "learning_rate", 0.5),
        (lambda: LearnConfig(num_envs=np.int32(4)), "num_envs", 4),
        (lambda: SimulatorConfig(horizon=np.int64(9)), "horizon", 9),
        (lambda: EnvConfig("CartPole-v1", horizon=np.int64(9)), "horizon", 9),
    ],
)
def test_numbers_of_numpy_become_those_of_python(settings: Any, name: str, expected: Any) -> None:
    made = settings()
    value = getattr(made, name)
    assert value == expected and type(value) is type(expected)
    assert json.loads(json.dumps(made.to_json()))[name] == expected


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 2.5, True, "3", None, [3]])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (lambda **given: CollectConfig("CartPole-v1", "out", **({"steps": 5} | given)), "steps"),
        (lambda **given: CollectConfig("CartPole-v1", "out", 5, **given), "seed"),
        (lambda **given: BuildConfig("CartPole-v1", "out", **given), "seed"),
        (FitConfig, "seed"),
        (LearnConfig, "steps"),
    ],
)
def test_what_is_no_integer_is_named(kind: Any, name: str, wrong: Any) -> None:
    with pytest.raises(InvalidOptionError, match=rf"{name} is .*, expected an integer"):
        kind(**{name: wrong})


def test_numbers_of_numpy_inside_arguments_become_those_of_python() -> None:
    given = {"size": np.int64(3), "gains": np.array([0.5, 1.0]), "deep": [{"x": np.float32(2)}]}
    plain = {"size": 3, "gains": [0.5, 1.0], "deep": [{"x": 2.0}]}
    real = EnvConfig(
        "CartPole-v1", given, (WrapperConfig("a:B", given),), reset_options={"at": np.int8(4)}
    )
    assert (real.kwargs, real.reset_options) == (plain, {"at": 4})
    assert real.wrappers[0].kwargs == plain
    assert EnvConfig.from_json(json.loads(json.dumps(real.to_json())), where="it") == real
    check_family(FitConfig(model={"width": np.int64(32)}))


def test_new_fields_are_left_out_of_files_where_they_have_their_default() -> None:
    plain = {"env_id": "A-v0", "kwargs": {}, "wrappers": [], "action_chunk": 1}
    assert EnvConfig("A-v0").to_json() == plain
    assert EnvConfig("A-v0", horizon=5).to_json() == plain | {"horizon": 5}
    build = BuildConfig(EnvConfig("A-v0", reset_options={}), "out")
    assert build.to_json()["real"] == plain | {"reset_options": {}}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"horizon": 0}, "horizon is 0, expected at least 1"),
        ({"horizon": -5}, "horizon is -5"),
        ({"horizon": 2.5}, r"horizon is 2\.5, expected an integer"),
        ({"reset_options": [1]}, "reset_options is .*strict JSON"),
        ({"reset_options": {"f": print}}, "reset_options is .*strict JSON"),
        ({"kwargs": {"x": float("nan")}}, "kwargs is .*strict JSON"),
        ({"kwargs": None}, "kwargs is None"),
        ({"kwargs": RECURSIVE}, "kwargs is .*strict JSON"),
        ({"wrappers": None}, "wrappers is None, expected a tuple of WrapperConfig"),
        ({"wrappers": WrapperConfig("a:B")}, "wrappers is WrapperConfig.*expected a tuple"),
        ({"wrappers": "a:B"}, "wrappers is 'a:B', expected a tuple"),
        ({"env_id": ""}, "id of the real environment is '', expected"),
        ({"env_id": "module:"}, "'module:', expected"),
        ({"env_id": ":A-v0"}, "':A-v0', expected"),
    ],
)
def test_wrong_settings_of_an_environment_are_named(given: Any, words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        EnvConfig(**({"env_id": "A-v0"} | given))


@pytest.mark.parametrize("name", ["Flatten", "a.B", "a:", ":B", 'a:B{"x": 1}', "a b:C", 3])
def test_a_wrapper_that_names_no_class_is_told_how_arguments_are_given(name: Any) -> None:
    with pytest.raises(
        InvalidOptionError, match=r'expected "module:Class".*WrapperConfig.*--config'
    ):
        WrapperConfig(name)
