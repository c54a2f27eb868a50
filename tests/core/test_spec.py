"""Specs and data ranges through strict JSON and back."""

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from oracle import real_spec

from world_env.data_range import DataRange
from world_env.errors import TwinFormatError, UnsupportedSpaceError
from world_env.spaces import space_from_json, space_to_json
from world_env.spec import WorldSpec

SPACES = [
    spaces.Box(-1.0, 1.0, (3,), np.float32),
    spaces.Box(-np.inf, np.inf, (2,), np.float64),
    spaces.Box(np.array([-1.0, -np.inf], np.float32), np.array([0.1, 7.0], np.float32)),
    spaces.Box(0, 255, (8, 6, 3), np.uint8),
    spaces.Box(0.0, 1.0, (), np.float32),
    spaces.Box(-5, 5, (2, 2), np.int32),
    spaces.Discrete(4),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiDiscrete([2, 3], start=[1, -1], dtype=np.int32),
    spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Box(0.0, 1.0, (1,))}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces_come_back(space: spaces.Space) -> None:
    text = json.dumps(space_to_json(space), allow_nan=False)
    back = space_from_json(json.loads(text))
    assert back == space and back.dtype == space.dtype
    if isinstance(space, spaces.Dict):
        assert list(back) == list(space)


def test_specs_come_back() -> None:
    for real_id in ("CartPole-v1", "Pendulum-v1"):
        spec = real_spec(real_id)
        back = WorldSpec.from_json(json.loads(json.dumps(spec.to_json(), allow_nan=False)))
        assert back == spec
        assert spec.real_id == real_id
        real = gym.make(real_id)
        assert back.observation_space == real.observation_space
        assert back.action_space == real.action_space
        real.close()
    plain = WorldSpec(SPACES[0], SPACES[6])
    assert WorldSpec.from_json(plain.to_json()) == plain and plain.real_id is None


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(3),
        spaces.Sequence(spaces.Discrete(3)),
        spaces.Tuple((spaces.Discrete(2),)),
        spaces.MultiDiscrete(np.array([[2, 3], [4, 5]])),
        spaces.Dict({"a": spaces.Text(2)}),
    ],
    ids=str,
)
def test_unsupported_spaces_are_named(space: spaces.Space) -> None:
    name = "Text" if isinstance(space, spaces.Dict) else type(space).__name__
    with pytest.raises(UnsupportedSpaceError, match=name):
        space_to_json(space)


@pytest.mark.parametrize(
    "tree",
    [
        None,
        3,
        {},
        {"type": "Sphere", "dtype": "float32"},
        {"type": "Sphere"},
        {"type": "Box", "shape": [2]},
        {"type": "Box", "shape": [2], "dtype": "float99", "low": 0, "high": 1},
        {"type": "Box", "shape": [2], "dtype": "float32", "low": [0, 0, 0], "high": 1},
        {"type": "Box", "shape": [2], "dtype": "float32", "low": "left", "high": 1},
        {"type": "Box", "shape": "x", "dtype": "float32", "low": 0, "high": 1},
        {"type": "Box", "shape": [-2], "dtype": "float32", "low": 0, "high": 1},
        {"type": "Discrete", "n": 0, "start": 0, "dtype": "int64"},
        {"type": "Discrete", "n": "many", "start": 0, "dtype": "int64"},
        {"type": "MultiDiscrete", "nvec": [0], "start": [0], "dtype": "int64"},
        {"type": "Dict", "spaces": [1]},
        {"type": "Dict", "spaces": {"a": 1}},
    ],
    ids=str,
)
def test_what_is_no_space_is_refused(tree: Any) -> None:
    with pytest.raises(TwinFormatError):
        space_from_json(tree)


@pytest.mark.parametrize(
    "change",
    [
        {"horizon": 0},
        {"horizon": "500"},
        {"horizon": 1.5},
        {"horizon": True},
        {"action_chunk": 0},
        {"action_chunk": None},
        {"seconds_per_step": "fast"},
        {"real": 7},
        {"real": "{not json"},
        {"more": 1},
        {"observation_space": None},
    ],
    ids=str,
)
def test_edited_specs_are_refused(change: dict[str, Any]) -> None:
    tree = real_spec("CartPole-v1").to_json()
    with pytest.raises(TwinFormatError):
        WorldSpec.from_json({**tree, **change})
    tree.pop("horizon")
    with pytest.raises(TwinFormatError, match="fields"):
        WorldSpec.from_json(tree)


def test_impossible_specs_are_refused() -> None:
    with pytest.raises(ValueError, match="horizon is 0"):
        WorldSpec(SPACES[0], SPACES[6], horizon=0)
    with pytest.raises(ValueError, match="action_chunk"):
        WorldSpec(SPACES[0], SPACES[6], action_chunk=0)


def test_data_ranges_come_back() -> None:
    for action in (None, ([0.0], [1.0])):
        ranges = DataRange({"observation": ([0.0, -1.0], [1.0, 2.0])}, (-1.0, 3.5), action)
        assert DataRange.from_json(json.loads(json.dumps(ranges.to_json()))) == ranges
    for tree in ({}, None, {"observation": {"a": [1]}, "reward": [0, 1], "action": None}, 3):
        with pytest.raises(TwinFormatError):
            DataRange.from_json(tree)
