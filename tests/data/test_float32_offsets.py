"""Columns get an offset where float32 loses their changes, and only there."""

import numpy as np
import pytest
from gymnasium import spaces

from world_env.data.episode import Episode
from world_env.data.float32_offsets import float32_offsets
from world_env.data.validation.lint import lint
from world_env.spec import Angle, WorldSpec


def offsets(values: np.ndarray, dtype: type, low: float = -np.inf, high: float = np.inf) -> list:
    """Offsets of one key with columns (episodes, T+1, D)."""
    space = spaces.Box(low, high, values.shape[2:], dtype)
    spec = WorldSpec(space, spaces.Discrete(2))
    return float32_offsets(episodes(values.astype(dtype)), spec).get("observation", [])


def episodes(values: np.ndarray) -> list[Episode]:
    steps = values.shape[1] - 1
    return [
        Episode(each, np.zeros(steps, int), np.zeros(steps), terminated=False, truncated=True)
        for each in values
    ]


def walks(step: float, columns: int = 1) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(0, step, (10, 101, columns)).cumsum(1)


def test_the_middle_of_the_range_is_the_offset_of_a_column_that_needs_one() -> None:
    values = walks(0.1, 3)
    values[..., 1] += 1.7e9
    found = offsets(values, np.float64)
    assert found[0] == found[2] == 0
    assert found[1] == pytest.approx(np.ptp(values[..., 1]) / 2 + values[..., 1].min(), abs=1e-6)


@pytest.mark.parametrize(
    ("magnitude", "step"), [(1.7e9, 0.1), (5e6, 0.01), (2.4e6, 0.5), (40, 1e-5)]
)
def test_timestamps_and_coordinates_need_an_offset(magnitude: float, step: float) -> None:
    assert offsets(walks(step) + magnitude, np.float64) != []


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(walks(1.0), id="around zero"),
        pytest.param(walks(0.1) + 5, id="a height"),
        pytest.param(walks(1e5) + 1e6, id="large with large changes"),
        pytest.param(np.full((10, 101, 1), 1.7e9), id="constant"),
        pytest.param(walks(1e4) * 1e5, id="wide"),
        pytest.param(walks(1e-10) + 0.1, id="rounding errors of a simulator"),
        pytest.param(walks(1e-8) + 1e6, id="rounding errors of large values"),
    ],
)
def test_other_columns_need_none(values: np.ndarray) -> None:
    assert offsets(values, np.float64) == []


def test_float32_observations_have_none() -> None:
    assert offsets(walks(1.0) + 1.7e9, np.float32) == []


def test_a_column_that_moves_between_episodes_only_needs_one_as_well() -> None:
    goals = np.random.default_rng(0).uniform(5e6, 5e6 + 10, (10, 1, 1)).repeat(101, 1)
    assert offsets(goals, np.float64) != []


@pytest.mark.parametrize(("dtype", "start"), [(np.int64, 2**60 + 1), (np.uint64, 2**63 + 5)])
def test_the_offset_of_integers_is_an_integer(dtype: type, start: int) -> None:
    counts = np.arange(101, dtype=dtype)[None, :, None].repeat(10, 0) + dtype(start)
    assert offsets(counts, dtype, 0, 2**63 - 1) == [start + 50]
    small = np.arange(101)[None, :, None].repeat(10, 0)
    assert offsets(small, np.int64, 0, 1000) == []


def test_angles_and_other_keys_have_none() -> None:
    space = spaces.Dict(
        {
            "time": spaces.Box(-np.inf, np.inf, (1,), np.float64),
            "heading": spaces.Box(-np.inf, np.inf, (1,), np.float64),
            "lamp": spaces.Discrete(2),
        }
    )
    large = walks(0.1) + 1.7e9
    parts = [
        {"time": each, "heading": each, "lamp": np.zeros(len(each), np.int64)} for each in large
    ]
    whole = [
        Episode(part, np.zeros(100, int), np.zeros(100), terminated=False, truncated=True)
        for part in parts
    ]
    spec = WorldSpec(space, spaces.Discrete(2), angles={"heading": (Angle(0, 1.69e9, 1e8),)})
    assert list(float32_offsets(whole, spec)) == ["time"]


def test_a_timestamp_is_not_constant() -> None:
    rng = np.random.default_rng(0)
    times = 1.7e9 + rng.uniform(0, 1, (10, 1, 1)) + 0.1 * np.arange(101)[:, None]
    spec = WorldSpec(spaces.Box(0, 4e9, (1,), np.float64), spaces.Discrete(2), horizon=100)
    named = {issue.check for issue in lint(episodes(times), spec) if issue.where == "observation"}
    assert not named & {"constant", "spikes"}
    # The same as float32 has one value only.
    spec = WorldSpec(spaces.Box(0, 4e9, (1,), np.float32), spaces.Discrete(2), horizon=100)
    issues = lint(episodes(times.astype(np.float32)), spec)
    assert "constant" in {issue.check for issue in issues if issue.where == "observation"}
