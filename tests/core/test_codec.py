"""Environment arrays to tensors and back."""

import json
from typing import Any

import numpy as np
import pytest
import tomllib
import torch
from gymnasium import spaces

from world_env.codec import Codec
from world_env.data_range import MARGINS_PER_WIDENED_RANGE, DataRange, widened
from world_env.errors import InvalidActionError, InvalidObservationError, UnsupportedSpaceError
from world_env.spaces import (
    action_size,
    encoded_shape,
    is_image,
    observation_spaces,
    space_from_json,
    space_to_json,
)
from world_env.spec import WorldSpec

FLAT = spaces.Box(-2.0, 2.0, (3,), np.float32)
OBSERVATIONS = [
    FLAT,
    spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    spaces.Box(0, 255, (8, 6, 3), np.uint8),
    spaces.Box(0, 255, (8, 6), np.uint8),
    spaces.Box(0, 255, (4, 8, 7), np.uint8),
    spaces.Box(0, 255, (1, 8), np.uint8),
    spaces.Box(0, 1, (8, 6), np.uint8),
    spaces.Box(3, 12, (2, 8, 6), np.uint8),
    spaces.Box(0.0, 1.0, (), np.float32),
    spaces.Box(-5, 5, (2,), np.int32),
    spaces.Discrete(4, start=2),
    spaces.MultiDiscrete([2, 3], start=[1, 0]),
    spaces.Dict({"image": spaces.Box(0, 255, (4, 4, 1), np.uint8), "speed": FLAT}),
]
ACTIONS = [
    FLAT,
    spaces.Box(np.array([-1.0, 0.0]), np.array([0.5, 7.0]), dtype=np.float64),
    spaces.Box(-1.0, 1.0, (2, 3), np.float32),
    spaces.Discrete(3),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([2, 4], start=[0, 5]),
]


def samples(space: spaces.Space, rows: int = 5) -> Any:
    space.seed(0)
    drawn = [space.sample() for _ in range(rows)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([one[key] for one in drawn]) for key in space}
    return np.stack(drawn)


def codec_for(observation: Any = FLAT, action: Any = FLAT, ranges: Any = None) -> Codec:
    return Codec(WorldSpec(observation, action), ranges)


@pytest.mark.parametrize("space", OBSERVATIONS, ids=str)
def test_observations_come_back(space: spaces.Space) -> None:
    codec, batch = codec_for(space), samples(space)
    encoded = codec.encode_observation(batch)
    for key, shape in codec.shapes.items():
        assert encoded[key].shape == (5, *shape) and encoded[key].dtype == torch.float32
    back = codec.decode_observation(encoded)
    pairs = [(batch, back)] if not isinstance(batch, dict) else [(batch[k], back[k]) for k in batch]
    for one, other in pairs:
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-6)
    first = (
        {key: value[0] for key, value in back.items()} if isinstance(back, dict) else back[0, ...]
    )
    assert space.contains(first)


@pytest.mark.parametrize("space", ACTIONS, ids=str)
def test_actions_are_scaled_or_one_hot(space: spaces.Space) -> None:
    batch = samples(space)
    encoded = codec_for(action=space).encode_action(batch)
    assert encoded.shape == (5, action_size(space)) and encoded.dtype == torch.float32
    if isinstance(space, spaces.Box):
        unit = (encoded.numpy().reshape(batch.shape) + 1.0) * 0.5
        back = space.low + unit * (space.high - space.low)
        np.testing.assert_allclose(back, batch, atol=1e-5)
        return
    sizes = space.nvec if isinstance(space, spaces.MultiDiscrete) else np.array([space.n])
    digits = np.stack([part.argmax(1) for part in encoded.split(sizes.tolist(), 1)], 1)
    np.testing.assert_array_equal(digits + space.start, batch.reshape(5, -1))
    assert set(encoded.unique().tolist()) <= {0.0, 1.0}
    assert encoded.sum(1).tolist() == [len(sizes)] * 5


def test_box_actions_are_scaled_and_clipped() -> None:
    codec = codec_for(
        action=spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, 4.0]), dtype=np.float64)
    )
    encoded = codec.encode_action(np.array([[-1.0, 0.0], [1.0, 4.0], [0.0, 2.0], [9.0, -9.0]]))
    assert encoded.tolist() == [[-1, -1], [1, 1], [0, 0], [1, -1]]


def test_unbounded_actions_are_scaled_by_the_data() -> None:
    space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    ranges = DataRange({}, (0.0, 1.0), ([-10.0], [10.0]))
    codec = codec_for(action=space, ranges=ranges)
    assert codec.encode_action(np.array([[5.0]])).item() == pytest.approx(0.5)


def test_predictions_stay_in_the_space_and_near_the_data() -> None:
    ranges = DataRange({"observation": ([-1.0, -1.0, 0.0], [1.0, 3.0, 0.0])}, (-1.0, 1.0))
    codec = codec_for(ranges=ranges)
    shown = codec.decode_observation({"observation": torch.tensor([[9.0] * 3, [-9.0] * 3])})
    np.testing.assert_allclose(shown, [[1.2, 2.0, 0.0], [-1.2, -1.4, 0.0]], rtol=1e-6)
    assert all(FLAT.contains(row) for row in shown)
    np.testing.assert_array_equal(codec.clip_reward(np.array([-5.0, 0.5, 5.0])), [-1, 0.5, 1])
    odd = spaces.Box(-0.1, 0.1, (1,), np.float32)
    edge = codec_for(odd).decode_observation({"observation": torch.tensor([[1.0], [-1.0]])})
    assert all(odd.contains(row) for row in edge)


@pytest.mark.parametrize(
    ("shape", "encoded"),
    [
        ((84, 84), (1, 84, 84)),
        ((1, 84, 84), (1, 84, 84)),
        ((4, 84, 84), (4, 84, 84)),  # stacked frames
        ((3, 210, 160), (3, 210, 160)),
        ((210, 160, 3), (3, 210, 160)),
        ((2, 64, 3), (3, 2, 64)),
        ((64, 64, 12), (12, 64, 64)),
        ((4, 64, 64, 3), (4, 64, 64, 3)),  # no image: a vector
    ],
)
def test_channels_come_first_where_they_are_told_from_sides(
    shape: tuple[int, ...], encoded: tuple[int, ...]
) -> None:
    space = spaces.Box(0, 255, shape, np.uint8)
    assert encoded_shape(space) == encoded
    assert is_image(space) == (len(shape) < 4)
    batch = samples(space, 2)
    shown = codec_for(space).encode_observation(batch)["observation"].numpy()
    moved = (
        batch
        if shape == encoded
        else np.moveaxis(batch.reshape(2, *shape, *[1] * (3 - len(shape))), -1, 1)
    )
    np.testing.assert_array_equal(np.rint(shown * (255 if is_image(space) else 1)), moved)


@pytest.mark.parametrize(
    "space", [spaces.Box(0, 1, (8, 8), np.uint8), spaces.Box(3, 12, (8, 8, 1), np.uint8)]
)
def test_bytes_of_another_range_are_numbers_that_stay_in_it(space: spaces.Box) -> None:
    assert not is_image(space)
    codec = codec_for(space)
    for value in (-7.0, 300.0):
        shown = codec.decode_observation(
            {"observation": torch.full((1, *codec.shapes["observation"]), value)}
        )
        assert space.contains(shown[0])


def test_arrays_are_fresh() -> None:
    codec = codec_for()
    given = torch.zeros(2, 3)
    shown = codec.decode_observation({"observation": given})
    shown += 1.0
    assert not given.any()
    batch = np.zeros((2, 3), np.float32)
    codec.encode_observation(batch)["observation"].add_(1.0)
    assert not batch.any()


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((2, 4)),
        np.zeros(3),
        np.float32(0),
        np.full((2, 3), np.nan),
        np.full((2, 3), np.inf),
        {"observation": np.zeros((2, 3))},
        None,
        "text",
        np.full((2, 3), "a"),
        np.full((2, 3), None),
        np.full((2, 3), 1.0 + 2.0j),
        [[0.0, 0.0, 0.0], [0.0]],
    ],
    ids=str,
)
def test_bad_observations(batch: Any) -> None:
    with pytest.raises(InvalidObservationError):
        codec_for().encode_observation(batch)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool])
def test_pictures_that_are_no_bytes_are_refused(dtype: type) -> None:
    codec = codec_for(spaces.Box(0, 255, (4, 4, 3), np.uint8))
    with pytest.raises(
        InvalidObservationError, match=r"image with the dtype .*expected uint8 \(0 to 255\)"
    ):
        codec.encode_observation(np.ones((1, 4, 4, 3), dtype))


def test_bad_dict_observations_name_the_keys() -> None:
    codec, batch = codec_for(OBSERVATIONS[-1]), samples(OBSERVATIONS[-1])
    for wrong in ({**batch, "more": batch["speed"]}, {"speed": batch["speed"]}, batch["speed"]):
        with pytest.raises(InvalidObservationError, match=r"image.*speed"):
            codec.encode_observation(wrong)
    with pytest.raises(InvalidObservationError):
        codec_for(OBSERVATIONS[6]).encode_observation(np.array([1, 2]))


@pytest.mark.parametrize(
    ("space", "batch"),
    [
        (FLAT, np.zeros((2, 2))),
        (FLAT, np.zeros(3)),
        (FLAT, np.full((1, 3), np.nan)),
        (FLAT, np.full((1, 3), "a")),
        (FLAT, np.full((1, 3), 0.5 + 1.0j)),
        (FLAT, np.full((1, 3), None)),
        (FLAT, np.full((1, 3), True)),
        (ACTIONS[3], np.array([1 + 0j])),
        (ACTIONS[3], np.array([3])),
        (ACTIONS[3], np.array([-1])),
        (ACTIONS[3], np.array([1.0])),
        (ACTIONS[3], np.array([True])),
        (ACTIONS[3], np.array([[1]])),
        (ACTIONS[5], np.array([[0, 4]])),
        (ACTIONS[5], np.array([[2, 5]])),
    ],
    ids=str,
)
def test_bad_actions(space: spaces.Space, batch: np.ndarray) -> None:
    with pytest.raises(InvalidActionError):
        codec_for(action=space).encode_action(batch)


def test_messages_name_the_value_the_expectation_and_no_batch_dimension() -> None:
    with pytest.raises(
        InvalidActionError, match=r"^invalid action 5 for Discrete\(2\): .* in \[0, 1\]$"
    ):
        codec_for(action=spaces.Discrete(2)).encode_action(np.array([5]))
    with pytest.raises(InvalidActionError, match=r"integers in \[0, 1\], \[2, 4\]"):
        codec_for(action=spaces.MultiDiscrete([2, 3], start=[0, 2])).encode_action(
            np.array([[0, 1]])
        )
    with pytest.raises(InvalidActionError, match=r"action has the shape \(2,\), expected \(3,\)"):
        codec_for(action=FLAT).encode_action(np.zeros((1, 2)))
    with pytest.raises(
        InvalidObservationError, match=r"'observation' has the shape \(4,\), expected"
    ):
        codec_for().encode_observation(np.zeros((1, 4)))


def test_the_margin_of_the_data_range_is_defined_once() -> None:
    low, high = widened(np.array([-1.0, 2.0]), np.array([1.0, 7.0]))
    np.testing.assert_allclose([low, high], [[-1.2, 1.5], [1.2, 7.5]])
    # What models take off a widened range again, and compiled loops have as a constant.
    assert MARGINS_PER_WIDENED_RANGE == 12.0
    np.testing.assert_allclose((high - low) / MARGINS_PER_WIDENED_RANGE, [0.2, 0.5])
    ranges = DataRange({"observation": ([-1.0] * 3, [1.0] * 3)}, (0.0, 1.0))
    wide = spaces.Box(-10.0, 10.0, (3,), np.float64)
    far = {"observation": torch.full((1, 3), 5.0)}
    np.testing.assert_allclose(Codec(WorldSpec(wide, FLAT), ranges).decode_observation(far), 1.2)


def test_unsupported_spaces_are_named() -> None:
    with pytest.raises(UnsupportedSpaceError, match="no fixed size"):
        observation_spaces(spaces.Sequence(spaces.Discrete(2)))
    nested = spaces.Dict({"a": spaces.Dict({"b": FLAT})})
    with pytest.raises(UnsupportedSpaceError, match=r"'a' is a Dict.*FlatDictObservation"):
        observation_spaces(nested)
    pair = spaces.Tuple([FLAT, spaces.Discrete(2)])
    for action in (pair, spaces.Box(0, 5, (1,), np.int32), nested):
        with pytest.raises(UnsupportedSpaceError, match=type(action).__name__):
            action_size(action)
    with pytest.raises(UnsupportedSpaceError, match="ActionWrapper"):
        action_size(pair)


def test_an_observation_of_text_is_refused_with_both_calls_to_make() -> None:
    space = spaces.Dict({"mission": spaces.Text(9), "here": FLAT})
    with pytest.raises(UnsupportedSpaceError) as raised:
        observation_spaces(space)
    message = str(raised.value)
    assert "world_env.wrappers:TextToCategory', {'key': 'mission', 'vocabulary': " in message
    assert "world_env.wrappers:DropKeys', {'keys': ['mission']})" in message
    line = message[message.index("wrappers = [") :]
    wrapper = tomllib.loads(line)["wrappers"][0]
    assert wrapper == {"name": "world_env.wrappers:DropKeys", "kwargs": {"keys": ["mission"]}}


@pytest.mark.parametrize("n", [3, [2, 3], (1,)])
def test_multi_binary_is_encoded_as_pairs_of_categories_and_back(n: int | list[int]) -> None:
    space = spaces.MultiBinary(n)
    assert space_from_json(json.loads(json.dumps(space_to_json(space)))) == space
    codec = codec_for(space, space)
    values = np.stack([space.sample() for _ in range(20)])
    encoded = codec.encode_observation(values)["observation"]
    assert encoded.shape == (20, 2 * values[0].size) == codec.encode_action(values).shape
    assert (encoded.unflatten(-1, (-1, 2)).sum(-1) == 1).all()
    assert (encoded[:, 1::2].reshape(values.shape).numpy() == values).all()
    decoded = codec.decode_observation({"observation": encoded})
    assert decoded.dtype == space.dtype and (decoded == values).all()
    assert torch.equal(encoded, codec.encode_observation(values.astype(bool))["observation"])
    with pytest.raises(InvalidObservationError, match=r"integers? in \[0, 1\]"):
        codec.encode_observation(values + 2)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int8])
def test_bounds_of_integers_are_kept_to_the_last_digit(dtype: type[np.integer]) -> None:
    info = np.iinfo(dtype)
    low, high = np.array([info.min, 0], dtype), np.array([info.max, info.max - 1], dtype)
    space = spaces.Box(low, high, dtype=dtype)
    again = space_from_json(json.loads(json.dumps(space_to_json(space))))
    assert again == space and again.high.tolist() == high.tolist()
    assert again.low.tolist() == low.tolist()
    codec = codec_for(space)
    for extreme, bound in ((1e30, high), (-1e30, low)):
        decoded = codec.decode_observation({"observation": torch.full((2, 2), extreme)})
        assert decoded.dtype == dtype and decoded.tolist() == [bound.tolist()] * 2
    assert codec.decode_observation({"observation": torch.full((1, 2), 7.4)}).tolist() == [[7, 7]]
    assert encoded_shape(OBSERVATIONS[2]) == (3, 8, 6)
