"""Columns of a Box: angles as cosine and sine, values beyond float32, and bounds of integers."""

import json

import numpy as np
import pytest
import torch
from gymnasium import spaces

from world_env.codec import Codec
from world_env.data_range import DataRange
from world_env.errors import TwinFormatError
from world_env.spec import Angle, WorldSpec, encoded_shapes

PI = np.pi
PUSH = spaces.Box(-1, 1, (1,), np.float32)


def codec_of(
    space: spaces.Box, angles: tuple[Angle, ...] = (), offset: list[float] | None = None
) -> Codec:
    spec = WorldSpec(space, PUSH, angles={"observation": angles} if angles else {})
    ranges = None if offset is None else DataRange({}, (0, 1), offset={"observation": offset})
    return Codec(spec, ranges)


def there_and_back(codec: Codec, values: np.ndarray) -> np.ndarray:
    encoded = codec.encode_observation(values)
    assert encoded["observation"].dtype == torch.float32
    assert encoded["observation"].shape[1:] == codec.shapes["observation"]
    return codec.decode_observation(encoded)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("low", "period"), [(-PI, 2 * PI), (0, 2 * PI), (-180, 360), (0, 1)])
def test_an_angle_comes_back_and_its_ends_are_neighbours(
    low: float, period: float, dtype: type
) -> None:
    space = spaces.Box(np.array([-9, low], dtype), np.array([9, low + period], dtype), dtype=dtype)
    codec = codec_of(space, (Angle(1, low, period),))
    assert codec.shapes == {"observation": (3,)}
    turns = np.linspace(0.001, 0.999, 50)
    values = np.stack([turns, low + period * turns], 1).astype(dtype)
    back = there_and_back(codec, values)
    assert back.dtype == dtype
    np.testing.assert_allclose(back, values, atol=2e-6 * period)
    encoded = codec.encode_observation(values)["observation"]
    np.testing.assert_allclose(encoded[:, 1:].square().sum(1), 1, atol=1e-6)
    ends = np.array([[0, low + 1e-4 * period], [0, low + (1 - 1e-4) * period]], dtype)
    one, other = codec.encode_observation(ends)["observation"]
    assert float((one - other).norm()) < 2e-3
    # Any cosine and sine give a value of the space, the end of the period included.
    angles = torch.linspace(-4, 4, 4001)
    drawn = torch.stack([torch.zeros(4001), 3 * angles.cos(), 3 * angles.sin()], 1)
    shown = codec.decode_observation({"observation": drawn})
    assert all(row in space for row in shown)
    assert (shown[:, 1] < dtype(low + period)).all()


def test_the_range_of_the_data_does_not_cut_an_angle() -> None:
    spec = WorldSpec(
        spaces.Box(-np.inf, np.inf, (2,), np.float32),
        PUSH,
        angles={"observation": (Angle(0, -PI, 2 * PI),)},
    )
    codec = Codec(spec, DataRange({"observation": ([-3.0, -1.0], [2.0, 1.0])}, (0, 1)))
    shown = codec.decode_observation({"observation": torch.tensor([[-1.0, 9.0, 1e-3]])})
    np.testing.assert_allclose(shown, [[PI - 1e-3, 1.2]], rtol=1e-5)


def test_whole_degrees_stay_in_their_turn() -> None:
    codec = codec_of(spaces.Box(0, 360, (1,), np.int64), (Angle(0, 0, 360),))
    degrees = np.arange(361)[:, None]
    np.testing.assert_array_equal(there_and_back(codec, degrees), degrees % 360)
    almost = np.deg2rad([359.4, 359.6, 0.4])
    encoded = torch.tensor(np.stack([np.cos(almost), np.sin(almost)], 1))
    assert codec.decode_observation({"observation": encoded}).tolist() == [[359], [0], [0]]


def test_angles_of_any_key_and_shape() -> None:
    space = spaces.Dict(
        {
            "pose": spaces.Box(-4, 4, (2, 2), np.float64),
            "lamp": spaces.Discrete(3),
            "wheel": spaces.Box(-4, 4, (), np.float32),
        }
    )
    turn = 2 * PI
    angles = {
        "pose": (Angle(1, -PI, turn), Angle(3, -PI, turn)),
        "wheel": (Angle(0, -PI, turn),),
    }
    spec = WorldSpec(space, PUSH, angles=angles)
    codec = Codec(spec)
    assert codec.shapes == encoded_shapes(spec) == {"lamp": (3,), "pose": (6,), "wheel": (2,)}
    names = ["pose[0]", "cos pose[1]", "pose[2]", "cos pose[3]", "sin pose[1]", "sin pose[3]"]
    assert codec.column_names("pose") == names
    assert codec.angle_pairs("pose") == [(1, 4), (3, 5)] and codec.angle_pairs("lamp") == []
    rng = np.random.default_rng(0)
    seen = {
        "pose": rng.uniform(-3, 3, (5, 2, 2)),
        "lamp": rng.integers(3, size=5),
        "wheel": rng.uniform(-3, 3, 5).astype(np.float32),
    }
    back = codec.decode_observation(codec.encode_observation(seen))
    for key, value in seen.items():
        assert back[key].dtype == value.dtype and back[key].shape == value.shape
        np.testing.assert_allclose(back[key], value, atol=1e-6)


def test_a_spec_with_angles_comes_back_and_one_without_has_no_such_field() -> None:
    space = spaces.Box(-4, 4, (2,), np.float32)
    plain = WorldSpec(space, PUSH)
    assert "angles" not in plain.to_json()
    spec = WorldSpec(space, PUSH, angles={"observation": (Angle(1, -PI, 2 * PI),)})
    tree = json.loads(json.dumps(spec.to_json(), allow_nan=False))
    assert WorldSpec.from_json(tree) == spec != plain
    for wrong in (
        *([[2, 0, 1]], [[-1, 0, 1]], [[0, 0, 0]], [[0, 0]], [[1, 0, 1], [0, 0, 1]]),
        *(3, [["0", 0, 1]], [[0, None, 1]], [[0.0, 0, 1]]),
    ):
        with pytest.raises(TwinFormatError, match="invalid spec"):
            WorldSpec.from_json(tree | {"angles": {"observation": wrong}})
    with pytest.raises(TwinFormatError, match="'speed'"):
        WorldSpec.from_json(tree | {"angles": {"speed": [[0, 0, 1]]}})


def test_changes_that_float32_would_lose_survive_with_an_offset() -> None:
    space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    values = np.array([[1.7e9, 0.25], [1.7e9 + 0.125, 0.5], [1.7e9 - 1, 0.75]])
    assert np.abs(there_and_back(codec_of(space), values) - values)[:, 0].max() > 0.1
    codec = codec_of(space, offset=[1.7e9, 0])
    np.testing.assert_array_equal(there_and_back(codec, values), values)
    assert codec.encode_observation(values)["observation"][:, 0].tolist() == [0, 0.125, -1]


@pytest.mark.parametrize(
    ("dtype", "middle"),
    [
        (np.int64, 1_700_000_000_123),
        (np.int64, 2**62 + 1),
        (np.uint64, 2**64 - 200),
        (np.int32, -(2**30) - 1),
        (np.uint32, 2**32 - 200),
    ],
)
def test_integers_beyond_the_mantissa_are_exact_with_an_offset(dtype: type, middle: int) -> None:
    info = np.iinfo(dtype)
    codec = codec_of(spaces.Box(info.min, info.max, (1,), dtype), offset=[middle])
    values = np.array([[middle + change] for change in (-100, -1, 0, 1, 100)], dtype)
    back = there_and_back(codec, values)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, values)
    # Python integers of a caller arrive as int64.
    if middle < 2**63 - 200:
        np.testing.assert_array_equal(there_and_back(codec, values.astype(np.int64)), values)
    near = codec.encode_observation(values.astype(np.float64))["observation"]
    assert float(near.abs().max()) <= 100 + 2.0**-52 * abs(middle)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        (np.int64, -(2**63), 2**63 - 1),
        (np.int64, 2**53 + 1, 2**53 + 3),
        (np.int64, -(2**24) - 1, 2**24 + 1),
        (np.uint64, 0, 2**64 - 1),
        (np.uint64, 2**63 + 1, 2**63 + 5),
        (np.uint8, 3, 250),
        (np.int8, -128, 127),
        (np.uint32, 0, 2**32 - 1),
        (np.bool_, 0, 1),
    ],
)
@pytest.mark.parametrize("centred", [False, True])
def test_integers_never_leave_their_bounds(dtype: type, low: int, high: int, centred: bool) -> None:
    bounds = (np.array([bound], dtype) for bound in (low, high))
    space = spaces.Box(*bounds, dtype=dtype)
    offset = [(low + high) // 2] if centred and dtype is not np.bool_ else None
    codec = codec_of(space, offset=offset)
    far = torch.tensor([[-1e30], [1e30], [-1e19], [1e19], [0.0], [0.6], [-3e9], [3e9]])
    shown = codec.decode_observation({"observation": far})
    assert shown.dtype == dtype
    assert int(shown[0, 0]) == low and int(shown[1, 0]) == high
    assert all(low <= int(value) <= high for value in shown[:, 0])
    assert all(row in space for row in shown)


def test_offsets_come_back_as_they_are_and_are_omitted_when_there_are_none() -> None:
    assert "offset" not in DataRange({}, (0, 1)).to_json()
    ranges = DataRange({}, (0.0, 1.0), offset={"a": [2**53 + 1, 0], "b": [1.7e9]})
    back = DataRange.from_json(json.loads(json.dumps(ranges.to_json())))
    assert back == ranges and type(back.offset["a"][0]) is int
    for wrong in ({"a": [None]}, {"a": 3}, [1], {"a": [float("inf")]}):
        with pytest.raises(TwinFormatError, match="data range"):
            DataRange.from_json(ranges.to_json() | {"offset": wrong})
