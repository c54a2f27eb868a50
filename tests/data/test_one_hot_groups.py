"""One-hots in the columns of a Box are found as what they are, neither merged nor split."""

import itertools

import numpy as np
import pytest
from gymnasium import spaces

from world_env.codec import Codec
from world_env.data.column_structure import one_hot_groups
from world_env.data.dataset import encode_episodes
from world_env.data.episode import Episode
from world_env.spec import WorldSpec

ROWS = 400


def one_hots(*sizes: int, without: dict[int, list[int]] | None = None, seed: int = 0) -> np.ndarray:
    """One-hots of independent random categories, side by side. without: group -> categories that never occur."""
    rng = np.random.default_rng(seed)
    parts = []
    for group, size in enumerate(sizes):
        never = (without or {}).get(group, [])
        shown = [each for each in range(size) if each not in never]
        parts.append(np.eye(size, dtype=np.float32)[rng.choice(shown, ROWS)])
    return np.concatenate(parts, 1)


def found(values: np.ndarray, declared: bool = True) -> list[tuple[int, int]]:
    unit = np.full(values.shape[1], declared)
    return [(group.start, group.stop) for group in one_hot_groups(values, unit)]


@pytest.mark.parametrize("sizes", [(4,), (2, 2), (3, 3, 3), (2, 5, 2), (32, 11, 2)])
def test_neighbouring_groups_are_told_apart(sizes: tuple[int, ...]) -> None:
    edges = np.cumsum([0, *sizes]).tolist()
    assert found(one_hots(*sizes)) == list(itertools.pairwise(edges))


def test_numbers_beside_a_group_do_not_join_it() -> None:
    rng = np.random.default_rng(1)
    number = rng.normal(size=(ROWS, 1)).astype(np.float32)
    flag = rng.integers(0, 2, (ROWS, 1)).astype(np.float32)
    counter = rng.integers(0, 3, (ROWS, 1)).astype(np.float32)
    values = np.concatenate([number, one_hots(3), number, one_hots(4), flag, counter], 1)
    assert found(values) == [(1, 4), (5, 9)]
    assert found(np.concatenate([flag, one_hots(3)], 1)) == [(1, 4)]
    # Ones in two columns at a time, or in none: no one-hot.
    assert not found(np.concatenate([flag, rng.permutation(flag), counter], 1))
    assert not found(one_hots(4)[:, :3])
    assert not found(one_hots(4)[:, 1:])


def test_one_wrong_row_is_enough_to_refute_a_group() -> None:
    for wrong in (0.0, 0.5):
        values = one_hots(4)
        values[7, values[7].argmax()] = wrong
        assert not found(values)


def test_what_is_constant_is_no_group() -> None:
    constant = np.zeros((ROWS, 3), np.float32)
    assert not found(constant)
    constant[:, 1] = 1.0
    assert not found(constant)
    # Beside one that changes, the constant one stays as it is.
    assert found(np.concatenate([constant[:, 1:], one_hots(3)], 1), declared=False) == [(2, 5)]


@pytest.mark.parametrize("never", [[0], [2], [4], [0, 4], [0, 1]])
def test_categories_that_never_occur_belong_to_their_group_where_it_is_declared(
    never: list[int],
) -> None:
    values = one_hots(5, without={0: never})
    assert found(values) == [(0, 5)]
    shown = [each for each in range(5) if each not in never]
    # Without bounds of [0, 1], a column of zeros at the border may be any number.
    assert found(values, declared=False) == [(shown[0], shown[-1] + 1)]


def test_a_column_without_ones_between_two_groups_belongs_to_one_of_them() -> None:
    values = one_hots(3, 3, without={0: [2], 1: [0]})
    assert found(values) == [(0, 4), (4, 6)]


def test_many_rare_columns_are_searched_quickly() -> None:
    values = np.zeros((2_000, 600), np.float32)
    values[np.arange(2_000), np.arange(2_000) % 599] = 1.0
    values[0] = 0.0
    assert not found(values)


def test_statistics_number_the_groups_of_all_keys_and_leave_their_values_alone() -> None:
    space = spaces.Dict(
        {
            "a": spaces.Box(0, 1, (5,), np.float32),
            "b": spaces.Discrete(3),
            "c": spaces.MultiBinary(2),
            "d": spaces.Box(-9.0, 9.0, (2,), np.float32),
        }
    )
    rng = np.random.default_rng(0)
    seen = {
        "a": one_hots(3, 2),
        "b": rng.integers(0, 3, ROWS),
        "c": rng.integers(0, 2, (ROWS, 2)).astype(np.int8),
        "d": rng.normal(3.0, 2.0, (ROWS, 2)).clip(-9, 9).astype(np.float32),
    }
    actions = rng.integers(0, 2, ROWS - 1)
    episode = Episode(seen, actions, np.zeros(ROWS - 1), False, True)
    spec = WorldSpec(space, spaces.Discrete(2), horizon=ROWS)
    statistics = encode_episodes([episode], Codec(spec)).statistics()
    groups = {key: value.tolist() for key, value in statistics.categories.items()}
    assert groups == {"a": [0, 0, 0, 1, 1], "b": [2, 2, 2], "c": [3, 3, 4, 4], "d": [-1, -1]}
    for key in "abc":
        assert not statistics.center[key].any() and not statistics.low[key].any()
        for name in ("scale", "change_scale", "high", "carried"):
            assert (getattr(statistics, name)[key] == 1).all(), name
    assert statistics.center["d"].min() > 1.0
