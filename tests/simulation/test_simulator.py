"""The stepping core: snapshots, rows, actions, ends, options."""

import dataclasses
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from oracle import CartPoleOracle, OracleConfig, oracle_twin
from torch import Tensor

from world_env.batch import State
from world_env.errors import (
    InvalidActionError,
    InvalidOptionError,
    ResetNeededError,
    SpaceMismatchError,
)
from world_env.models.base import Prediction
from world_env.simulation.simulator import (
    ENDS,
    Simulator,
    SimulatorConfig,
    Snapshot,
    StepResult,
)
from world_env.twin.twin import Twin

ROWS = 4


def started(twin: Twin, rows: int = ROWS, seed: int = 3, **config: Any) -> Simulator:
    simulator = Simulator(twin, rows, config=SimulatorConfig(**config))
    simulator.reset(seed=seed)
    return simulator


def balance(simulator: Simulator) -> np.ndarray:
    """Actions that keep the pole up for a few hundred steps."""
    observation = simulator.observe()
    return (observation[:, 2] + 0.3 * observation[:, 3] > 0).astype(np.int64)


def live(simulator: Simulator, steps: int) -> list[StepResult]:
    """Steps with restarts, actions by a rule."""
    results = []
    for _ in range(steps):
        results.append(simulator.step(balance(simulator)))
        if simulator.finished.any():
            simulator.reset(simulator.finished.copy())
    return results


def same(first: list[StepResult], second: list[StepResult]) -> None:
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.observation, other.observation)
        np.testing.assert_array_equal(one.reward, other.reward)
        np.testing.assert_array_equal(one.end, other.end)


@pytest.mark.parametrize("termination", ["threshold", "sample"])
def test_restore_replays_bit_by_bit(noisy: Twin, termination: str) -> None:
    simulator = started(noisy, termination=termination)
    live(simulator, 11)
    snapshot = simulator.snapshot()
    future = live(simulator, 60)
    assert any(result.end.any() for result in future)
    simulator.restore(snapshot)
    same(future, live(simulator, 60))
    elsewhere = Simulator(noisy, ROWS, config=simulator.config)
    elsewhere.restore(snapshot)
    same(future, live(elsewhere, 60))
    through_reset = Simulator(noisy, ROWS, config=simulator.config)
    through_reset.reset(options={"snapshot": snapshot})
    same(future, live(through_reset, 60))


def test_same_seed_same_life_other_seed_other(noisy: Twin) -> None:
    first = live(started(noisy), 40)
    same(first, live(started(noisy), 40))
    other = live(started(noisy, seed=4), 40)
    assert not np.array_equal(first[-1].observation, other[-1].observation)


def assert_equal_snapshots(first: Snapshot, second: Snapshot) -> None:
    for name, value in first.state.items():
        assert torch.equal(value, second.state[name]), name
    assert torch.equal(first.seeds, second.seeds) and torch.equal(first.draws, second.draws)
    np.testing.assert_array_equal(first.counters, second.counters)
    np.testing.assert_array_equal(first.finished, second.finished)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("family", ["oracle", "ensemble", "linear"])
def test_a_reset_of_all_environments_equals_resets_one_by_one(family: str, rows: int) -> None:
    twin = oracle_twin("CartPole-v1", noise=0.01)
    if family != "oracle":
        model = Twin.untrained(twin.spec, family)
        twin = dataclasses.replace(model, starts=twin.starts)
    together, single = Simulator(twin, rows, seed=1), Simulator(twin, rows, seed=1)
    single.reset(seed=90)
    for seeds in ([5, 6, 7], [None, None, None], [None, 8, None]):
        shown = together.reset(seed=seeds[:rows] if any(seeds) else None)
        for i in range(rows):
            one = [seed if j == i else None for j, seed in enumerate(seeds[:rows])]
            last = single.reset(np.arange(rows) == i, seed=one)
        np.testing.assert_array_equal(shown, last)
        assert_equal_snapshots(together.snapshot(), single.snapshot())
        same(live(together, 20), live(single, 20))


@pytest.mark.parametrize("rows", [1, 3])
def test_a_step_without_an_episode_is_refused(noisy: Twin, rows: int) -> None:
    simulator = Simulator(noisy, rows)
    actions = np.ones(rows, int)
    with pytest.raises(ResetNeededError, match=r"step\(\) called before reset\(\).*: call reset"):
        simulator.step(actions)
    simulator.reset(seed=0)
    while not simulator.finished.any():
        simulator.step(actions)
    ended = np.flatnonzero(simulator.finished).tolist()
    expected = "episode ended: call reset" if rows == 1 else f"environments {ended} ended"
    with pytest.raises(ResetNeededError, match=re.escape(expected)) as error:
        simulator.step(actions)
    assert "row" not in str(error.value)


def test_fresh_noise_is_another_future_from_one_past(noisy: Twin) -> None:
    simulator = started(noisy)
    snapshot = simulator.snapshot()
    first = simulator.step(balance(simulator)).observation
    simulator.restore(snapshot, fresh_noise=True)
    np.testing.assert_array_equal(simulator.observe(), started(noisy).observe())
    second = simulator.step(balance(simulator)).observation
    assert (first != second).any(1).all()
    simulator.reset(options={"snapshot": snapshot}, seed=77)
    assert (simulator.step(balance(simulator)).observation != first).any(1).all()


def test_snapshots_are_independent_of_what_follows(noisy: Twin) -> None:
    simulator = started(noisy)
    snapshot = simulator.snapshot()
    kept = {name: value.clone() for name, value in snapshot.state.items()}
    counters, finished = snapshot.counters.copy(), snapshot.finished.copy()
    live(simulator, 30)
    simulator.restore(snapshot)
    live(simulator, 30)
    assert all(torch.equal(value, snapshot.state[name]) for name, value in kept.items())
    np.testing.assert_array_equal(counters, snapshot.counters)
    np.testing.assert_array_equal(finished, snapshot.finished)


def test_fork_gives_different_futures_and_leaves_the_parent_alone(noisy: Twin) -> None:
    simulator = started(noisy)
    live(simulator, 3)
    snapshot = simulator.snapshot()
    forks = [simulator.fork([1, 2], 3), simulator.fork([1, 2], 3)]
    for fork in forks:
        assert fork.num_rows == 6
        np.testing.assert_array_equal(fork.observe(), simulator.observe()[[1, 1, 1, 2, 2, 2]])
    futures = [fork.step(balance(fork)).observation for fork in forks]
    assert len(np.unique(futures[0], axis=0)) == 6
    np.testing.assert_array_equal(*futures)
    other = simulator.fork([1, 2], 3, seed=9)
    assert (other.step(balance(other)).observation != futures[0]).any(1).all()
    after = live(simulator, 20)
    simulator.restore(snapshot)
    same(after, live(simulator, 20))
    with pytest.raises(InvalidOptionError, match="n is 0, expected an integer >= 1"):
        simulator.fork(n=0)


@pytest.mark.parametrize("termination", ["threshold", "sample"])
def test_rows_never_change_one_another(noisy: Twin, termination: str) -> None:
    """Row 0 lives the same whether the others are restarted, frozen or pushed."""
    calm, busy = (started(noisy, termination=termination) for _ in range(2))
    for step in range(20):
        mask = np.array([True, step % 2 == 0, True, False])
        actions = balance(calm)
        calm.step(actions)
        if calm.finished.any():
            calm.reset(calm.finished.copy())
        others = actions.copy()
        others[1:] = 1 - others[1:]
        before = busy.observe()
        draws = busy.snapshot().draws
        result = busy.step(others, mask & ~(busy.finished & (np.arange(ROWS) > 0)))
        np.testing.assert_array_equal(result.observation[3], before[3])
        assert busy.snapshot().draws[3] == draws[3]
        assert result.reward[3] == 0.0 and result.end[3] == 0
        restarts = busy.finished | np.array([False, True, False, False])
        busy.reset(restarts)
        np.testing.assert_array_equal(calm.observe()[0], busy.observe()[0])
        assert calm.finished[0] == busy.finished[0]


def test_partial_restore(noisy: Twin) -> None:
    simulator = started(noisy)
    early = simulator.snapshot([0, 2])
    live(simulator, 5)
    here = simulator.observe()
    simulator.restore(early, [3, 1])
    now = simulator.observe()
    np.testing.assert_array_equal(now[[0, 2]], here[[0, 2]])
    np.testing.assert_array_equal(now[[3, 1]], started(noisy).observe()[[0, 2]])


def test_restore_refuses_what_does_not_fit(noisy: Twin) -> None:
    simulator = started(noisy)
    with pytest.raises(InvalidOptionError, match="1 environments, but 4"):
        simulator.restore(simulator.snapshot([0]))
    with pytest.raises(InvalidOptionError, match="Snapshot"):
        simulator.restore({"state": 1})
    with pytest.raises(InvalidOptionError, match="twice"):
        simulator.restore(simulator.snapshot([0, 1]), [1, 1])
    with pytest.raises(InvalidOptionError, match=r"environment indices in \[0, 3\]"):
        simulator.snapshot([4])
    other = started(oracle_twin("Pendulum-v1"))
    with pytest.raises(SpaceMismatchError, match="another twin"):
        simulator.restore(other.snapshot())
    with pytest.raises(ResetNeededError):
        Simulator(noisy, ROWS).restore(simulator.snapshot([0]), [0])
    with pytest.raises(ResetNeededError):
        Simulator(noisy, ROWS).snapshot()


@pytest.mark.parametrize(
    "action",
    [
        np.zeros(3, int),
        np.zeros((4, 1), int),
        np.array([0, 1, 2, 0]),
        np.array([0, 1, -1, 0]),
        np.zeros(4),
        np.zeros(4, bool),
        0,
        None,
    ],
)
def test_bad_discrete_actions_move_nothing(noisy: Twin, action: Any) -> None:
    simulator = started(noisy)
    before, noise = simulator.observe(), simulator.snapshot().draws
    with pytest.raises(InvalidActionError):
        simulator.step(action)
    np.testing.assert_array_equal(before, simulator.observe())
    assert torch.equal(noise, simulator.snapshot().draws)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_actions_are_refused(value: float) -> None:
    simulator = started(oracle_twin("Pendulum-v1"))
    with pytest.raises(InvalidActionError, match="finite"):
        simulator.step(np.full((ROWS, 1), value, np.float32))
    with pytest.raises(InvalidActionError, match="finite"):
        simulator.step(np.full((ROWS, 1), "left"))


def test_box_actions_outside_the_bounds_are_clipped() -> None:
    far, edge = (started(oracle_twin("Pendulum-v1")) for _ in range(2))
    first = far.step(np.full((ROWS, 1), 99.0, np.float32))
    second = edge.step(np.full((ROWS, 1), 2.0, np.float32))
    np.testing.assert_array_equal(first.observation, second.observation)


def test_bad_actions_of_rows_that_rest_are_ignored(noisy: Twin) -> None:
    simulator = started(noisy)
    simulator.step(np.array([0, 1, 77, -5]), np.array([True, True, False, False]))


def test_step_needs_a_running_episode(noisy: Twin) -> None:
    simulator = Simulator(noisy, ROWS)
    with pytest.raises(ResetNeededError):
        simulator.step(np.zeros(ROWS, int))
    with pytest.raises(ResetNeededError):
        simulator.observe()
    with pytest.raises(ResetNeededError, match="all environments"):
        simulator.reset(np.array([True, False, False, False]))
    simulator.reset()
    while not simulator.finished.any():
        simulator.step(np.ones(ROWS, int))
    with pytest.raises(ResetNeededError, match=r"environments \[.*\] ended: call reset"):
        simulator.step(np.ones(ROWS, int))
    simulator.reset(simulator.finished.copy())
    simulator.step(np.ones(ROWS, int))


def end_of(simulator: Simulator, steps: int = 600) -> tuple[list[str], StepResult, int]:
    for step in range(1, steps + 1):
        result = simulator.step(balance(simulator))
        if simulator.finished.any():
            return [ENDS[code] for code in result.end], result, step
    raise AssertionError("nothing ended")


def test_horizon_counts_from_the_real_start(cartpole: Twin) -> None:
    ends, result, step = end_of(started(cartpole, horizon=30))
    assert ends == ["horizon"] * ROWS and step == 30
    assert result.truncated.all() and not result.terminated.any()
    short = started(cartpole, horizon=30)
    start = short.observe()
    context = {
        "observations": start[:, None],
        "actions": np.zeros((ROWS, 0), int),
        "elapsed": np.full(ROWS, 20),
    }
    short.reset(options={"context": context})
    assert end_of(short)[2] == 10
    assert Simulator(cartpole, 1).horizon == 500


def test_rollout_length_counts_from_where_it_began(cartpole: Twin) -> None:
    simulator = started(cartpole, horizon=30, rollout_length=12)
    ends, result, step = end_of(simulator)
    assert ends == ["rollout"] * ROWS and step == 12 and result.truncated.all()
    both = started(cartpole, horizon=12, rollout_length=12)
    assert end_of(both)[0] == ["horizon"] * ROWS


def test_termination_wins_over_truncation(cartpole: Twin) -> None:
    lived = started(cartpole)
    steps = 0
    while not lived.finished.all():
        lived.step(np.ones(ROWS, int), ~lived.finished)
        steps += 1
    last = started(cartpole, horizon=steps)
    for _ in range(steps):
        result = last.step(np.ones(ROWS, int), ~last.finished)
    ended = result.end != 0
    assert ended.any() and result.terminated[ended].all() and not result.truncated.any()


class Breaks(CartPoleOracle):
    """Row states with a positive position go to no number."""

    def step(self, state: State, action: Tensor, **kwargs: Any) -> tuple[State, Prediction]:
        arrived, prediction = super().step(state, action, **kwargs)
        bad = state["physics"][:, :1] > 0
        physics = torch.where(bad, math.nan, arrived["physics"])
        return {"physics": physics}, dataclasses.replace(prediction)


def test_non_finite_rows_end_and_keep_what_they_showed(cartpole: Twin) -> None:
    twin = dataclasses.replace(cartpole, model=Breaks(cartpole.spec, OracleConfig()))
    simulator = started(twin, on_uncertain="terminate", uncertainty_threshold=0.0)
    before = simulator.observe()
    bad = before[:, 0] > 0
    assert bad.any() and not bad.all()
    result = simulator.step(balance(simulator))
    assert [ENDS[code] for code in result.end[bad]] == ["non_finite"] * int(bad.sum())
    assert result.truncated[bad].all() and not result.terminated[bad].any()
    np.testing.assert_array_equal(result.observation[bad], before[bad])
    assert np.isfinite(result.reward).all()
