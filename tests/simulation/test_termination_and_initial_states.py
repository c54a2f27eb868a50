"""How episodes end under uncertainty and known functions, and where they may begin."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from oracle import oracle_twin

from world_env.batch import Context
from world_env.data_range import DataRange
from world_env.errors import (
    InitialStatesError,
    InvalidObservationError,
    InvalidOptionError,
    KnownFunctionError,
)
from world_env.simulation.simulator import Simulator, SimulatorConfig
from world_env.simulation.termination import ENDS
from world_env.twin.twin import Twin

ROWS = 4
ACTION = np.zeros(ROWS, int)
RANGES = DataRange({}, (-3.0, 1.0))


def started(twin: Twin, **config: Any) -> Simulator:
    simulator = Simulator(twin, ROWS, config=SimulatorConfig(**config))
    simulator.reset(seed=3)
    return simulator


@pytest.mark.parametrize(
    ("rule", "terminated", "reward"),
    [("truncate", False, 1.0), ("terminate", True, 1.0), ("pessimistic", True, -3.0 * 25)],
)
def test_past_the_threshold(noisy: Twin, rule: str, terminated: bool, reward: float) -> None:
    twin = dataclasses.replace(noisy, ranges=RANGES)
    simulator = started(twin, on_uncertain=rule, uncertainty_threshold=0.0)
    result = simulator.step(ACTION)
    assert [ENDS[code] for code in result.end] == ["uncertainty"] * ROWS
    assert (result.terminated == terminated).all() and (result.truncated != terminated).all()
    np.testing.assert_allclose(result.reward, reward)
    assert result.uncertainty is not None and (result.uncertainty > 0).all()


def test_ignore_and_a_high_threshold_change_nothing(noisy: Twin) -> None:
    ignored = started(noisy, on_uncertain="ignore", uncertainty=True, uncertainty_threshold=0.0)
    assert not ignored.step(ACTION).end.any()
    high = started(noisy, on_uncertain="truncate", uncertainty_threshold=1e9)
    assert not high.step(ACTION).end.any()
    assert started(noisy).step(ACTION).uncertainty is None


def test_a_stored_threshold_of_zero_counts(noisy: Twin) -> None:
    twin = dataclasses.replace(noisy, uncertainty_threshold=0.0)
    assert started(twin, on_uncertain="truncate").step(ACTION).truncated.all()
    given = started(twin, on_uncertain="truncate", uncertainty_threshold=1e9)
    assert not given.step(ACTION).end.any()


def test_rules_need_a_threshold_and_known_names(noisy: Twin) -> None:
    with pytest.raises(InvalidOptionError, match="needs a threshold"):
        started(noisy, on_uncertain="truncate")
    for bad in (
        {"on_uncertain": "panic"},
        {"termination": "never"},
        {"horizon": 0},
        {"horizon": 2.5},
        {"rollout_length": 0},
        {"dataset_starts": 1.5},
        {"temperature": -1.0},
    ):
        with pytest.raises(InvalidOptionError, match=str(next(iter(bad)))):
            SimulatorConfig(**bad)
    with pytest.raises(InvalidOptionError, match="num_rows"):
        Simulator(noisy, 0)


def test_known_functions_replace_the_model(noisy: Twin) -> None:
    seen = []

    def reward(before: Any, action: Any, after: Any) -> np.ndarray:
        seen.append((before.copy(), action.copy(), after.copy()))
        return after[:, 0] * 0 + 7.0

    def ends(before: Any, action: Any, after: Any) -> np.ndarray:
        return np.array([True, False, False, False])

    twin = dataclasses.replace(noisy, reward_fn=reward, termination_fn=ends)
    simulator = started(twin)
    start = simulator.observe()
    result = simulator.step(ACTION)
    np.testing.assert_array_equal(result.reward, np.full(ROWS, 7.0))
    np.testing.assert_array_equal(result.terminated, [True, False, False, False])
    np.testing.assert_array_equal(seen[0][0], start)
    np.testing.assert_array_equal(seen[0][2], result.observation)


def test_a_known_function_that_fails_moves_nothing(noisy: Twin) -> None:
    twin = dataclasses.replace(noisy, reward_fn=lambda before, action, after: np.zeros(2))
    simulator = started(twin)
    before = simulator.observe()
    with pytest.raises(KnownFunctionError, match="reward_fn"):
        simulator.step(ACTION)
    np.testing.assert_array_equal(before, simulator.observe())
    assert not simulator.finished.any()


def with_states(twin: Twin) -> Twin:
    """Dataset states that no true start could be: all coordinates 0.15."""
    states = Context.from_observation({"observation": torch.full((5, 4), 0.15)}, 2)
    return dataclasses.replace(
        twin, states=dataclasses.replace(states, elapsed=torch.full((5,), 9))
    )


def test_dataset_starts(noisy: Twin) -> None:
    twin = with_states(noisy)
    inside = started(twin, dataset_starts=1.0).observe()
    np.testing.assert_allclose(inside, 0.15, atol=1e-6)
    many = Simulator(twin, 400, config=SimulatorConfig(dataset_starts=0.25))
    share = np.isclose(many.reset(seed=0), 0.15).all(1).mean()
    assert 0.15 < share < 0.35
    assert not np.isclose(started(twin).observe(), 0.15).all(1).any()
    simulator = started(twin, dataset_starts=1.0, horizon=10)
    assert [ENDS[code] for code in simulator.step(ACTION).end] == ["horizon"] * ROWS
    with pytest.raises(InitialStatesError, match="only real initial states"):
        started(noisy, dataset_starts=0.5)


def test_every_true_start_is_drawn(noisy: Twin) -> None:
    shown = Simulator(noisy, 2000).reset(seed=0)
    assert len(np.unique(shown, axis=0)) == len(noisy.starts)


def test_an_empty_set_of_starts_is_refused(noisy: Twin) -> None:
    with pytest.raises(InitialStatesError, match="at least one"):
        dataclasses.replace(noisy, starts=noisy.starts.select(torch.zeros(0, dtype=torch.int64)))


def test_a_given_observation_is_where_it_begins(noisy: Twin) -> None:
    simulator = started(noisy)
    wanted = np.full((ROWS, 4), 0.01, np.float32)
    np.testing.assert_allclose(simulator.reset(options={"observation": wanted}), wanted)
    mask = np.array([False, True, False, False])
    other = simulator.reset(mask, options={"observation": wanted[:1] * 2})
    np.testing.assert_allclose(other[1], 0.02)
    np.testing.assert_allclose(other[0], 0.01)


def test_a_given_context(noisy: Twin) -> None:
    simulator = started(noisy)
    context = {
        "observations": np.random.default_rng(0).uniform(-0.05, 0.05, (ROWS, 3, 4)),
        "actions": np.ones((ROWS, 2), int),
    }
    shown = simulator.reset(options={"context": context})
    np.testing.assert_allclose(shown, context["observations"][:, -1], atol=1e-6)
    # The last observation is two steps after the real start.
    np.testing.assert_array_equal(simulator.snapshot().counters[0], 2)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"obs": 1}, InvalidOptionError),
        ({"observation": np.zeros((4, 4)), "context": {}}, InvalidOptionError),
        ({"observation": np.zeros((3, 4))}, InvalidOptionError),
        ({"observation": np.zeros((4, 5))}, InvalidObservationError),
        ({"observation": np.full((4, 4), np.nan)}, InvalidObservationError),
        ({"context": {"observations": np.zeros((4, 2, 4))}}, InvalidOptionError),
        ({"context": 3}, InvalidOptionError),
        (
            {"context": {"observations": np.zeros((4, 2, 4)), "actions": np.zeros((4, 2), int)}},
            InvalidOptionError,
        ),
        (
            {"context": {"observations": np.zeros((4, 4)), "actions": np.zeros(4, int)}},
            InvalidOptionError,
        ),
        ({"snapshot": None}, InvalidOptionError),
    ],
)
def test_bad_options_move_nothing(noisy: Twin, options: dict, error: type[Exception]) -> None:
    simulator = started(noisy)
    before = simulator.snapshot()
    with pytest.raises(error):
        simulator.reset(seed=99, options=options)
    after = simulator.snapshot()
    assert torch.equal(before.state["physics"], after.state["physics"])
    np.testing.assert_array_equal(before.counters, after.counters)


def test_seeds_one_by_one() -> None:
    twin = oracle_twin("CartPole-v1", noise=0.01)
    listed, counted = Simulator(twin, 3), Simulator(twin, 3)
    np.testing.assert_array_equal(listed.reset(seed=[5, 6, 7]), counted.reset(seed=5))
    kept = listed.snapshot([1])
    listed.reset(seed=[5, None, 7])
    fresh = listed.snapshot([0, 2])
    np.testing.assert_array_equal(fresh.counters[3], [5, 7])
    # Row 1 went on with its own seed, to its second episode.
    np.testing.assert_array_equal(listed.snapshot([1]).counters[2:], [[2], kept.counters[3]])
    with pytest.raises(InvalidOptionError, match="2 seeds"):
        listed.reset(seed=[1, 2])
