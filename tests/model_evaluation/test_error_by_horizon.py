"""Exact models have no error at any horizon, and a planted fault shows where it was planted and nowhere else."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from oracle import CartPoleOracle, OracleConfig, oracle_twin, real_episodes, still_twin
from torch import Tensor

from world_env.batch import Context, Observation, State
from world_env.data.episode import Episode
from world_env.model_evaluation.error_by_horizon import _trusted, measure_horizons
from world_env.model_evaluation.errors import errors_per_row
from world_env.model_evaluation.open_loop import measured_steps
from world_env.models.base import Prediction
from world_env.real.real_env import spec_of
from world_env.rng import CounterRNG
from world_env.spec import EnvConfig
from world_env.twin.twin import Twin


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return real_episodes("CartPole-v1", 10, steps=60)


class Drifting(CartPoleOracle):
    """A cart that is taken to be further along at every step, each row at a pace of its own.

    Its place has no part in the other equations. drift: largest pace, units of the place. mean: taken off all rewards.
    says: its uncertainty, in terms of its error.
    """

    drift, mean = 0.0, 0.0
    says = staticmethod(lambda off, pace: off)

    def encode(self, context: Context, *, rng: CounterRNG) -> State:
        state = super().encode(context, rng=rng)
        pace = self.drift * torch.linspace(0.1, 1.0, len(context), dtype=torch.float64)
        return state | {"pace": pace, "off": torch.zeros_like(pace)}

    def step(self, state: State, action: Tensor, **options: Any) -> tuple[State, Prediction]:
        arrived, said = super().step({"physics": state["physics"]}, action, **options)
        off = state["off"] + state["pace"]
        doubt = self.says(off, state["pace"])
        said = Prediction(said.reward - self.mean, said.terminated, uncertainty=doubt)
        return arrived | {"pace": state["pace"], "off": off}, said

    def decode(self, state: State) -> Observation:
        shown = state["physics"].clone()
        shown[:, 0] += state["off"]
        return {"observation": shown}


def planted(model_class: type[CartPoleOracle] = Drifting, **faults: Any) -> Twin:
    twin = oracle_twin("CartPole-v1")
    model = model_class(twin.spec, OracleConfig())
    for name, value in faults.items():
        setattr(model, name, value)
    return dataclasses.replace(twin, model=model.eval())


@pytest.mark.parametrize("real_id", ["CartPole-v1", "Pendulum-v1"])
def test_an_exact_twin_has_no_error_at_any_horizon(real_id: str) -> None:
    made = real_episodes(real_id, 3, steps=120)
    twin = oracle_twin(real_id)
    told = measure_horizons(twin, made, linear=twin.model)
    seen, longest = told.observation, max(map(len, made))
    assert seen.steps == measured_steps(longest) == told.reward.steps
    assert seen.names == [f"observation[{i}]" for i in range(made[0].observations.shape[1])]
    assert np.shape(seen.error) == (len(seen.names), len(seen.steps))
    assert np.max(seen.error) < 1e-3 and seen.linear == seen.error
    assert np.max(told.reward.one_step) < 1e-3 and np.max(told.reward.return_so_far) < 0.05
    assert np.min(np.array(seen.hold_last)[:, 3]) > 0.1
    assert told.trusted_horizon == longest
    assert seen.windows[0] > seen.windows[-1] >= 1


def test_a_biased_dimension_shows_in_that_dimension_only(episodes: list[Episode]) -> None:
    seen = measure_horizons(planted(drift=0.01), episodes).observation
    error = np.array(seen.error)
    assert error[1:].max() < 1e-4
    assert (np.diff(error[0]) > 0).all()
    assert error[0, 1] == pytest.approx(2 * error[0, 0], rel=0.02)


def test_hold_last_and_rows_equal_their_hand_computation(episodes: list[Episode]) -> None:
    few = episodes[:4]
    assert sum(map(len, few)) < 256  # below that every step begins a window
    seen = measure_horizons(oracle_twin("CartPole-v1"), few).observation
    deviation = np.concatenate([episode.observations for episode in few]).std(0, ddof=1)
    for number, ahead in enumerate(seen.steps):
        moved = np.concatenate(
            [each.observations[ahead:] - each.observations[:-ahead] for each in few]
        )
        assert seen.windows[number] == len(moved)
        expected = np.sqrt((moved**2).mean(0)) / deviation
        np.testing.assert_allclose(np.array(seen.hold_last)[:, number], expected, rtol=1e-3)


def test_a_wrong_reward_adds_up_to_a_wrong_return(episodes: list[Episode]) -> None:
    told = measure_horizons(planted(mean=0.25), episodes).reward
    assert told.one_step == [0.25] * len(told.steps)
    assert told.return_so_far == [0.25 * steps for steps in told.steps]
    # Being alive always pays the same here.
    assert told.return_spread == [0.0] * len(told.steps)


def test_a_known_reward_is_judged_instead_of_the_models(episodes: list[Episode]) -> None:
    def place(before: np.ndarray, action: np.ndarray, after: np.ndarray) -> np.ndarray:
        assert before.shape == after.shape and action.shape == (len(after),)
        assert np.issubdtype(action.dtype, np.integer)
        return before[:, 0] + 10.0 * action + 100.0 * after[:, 2]

    exact = [
        dataclasses.replace(
            each, rewards=place(each.observations[:-1], each.actions, each.observations[1:])
        )
        for each in episodes
    ]
    twin = dataclasses.replace(planted(mean=5.0), reward_fn=place)
    told = measure_horizons(twin, exact).reward
    assert np.max(told.one_step) < 1e-2 and min(told.return_spread[:4]) > 1.0


def test_a_known_end_leaves_no_scores(episodes: list[Episode]) -> None:
    def never(before: np.ndarray, action: np.ndarray, after: np.ndarray) -> np.ndarray:
        return np.zeros(len(after), bool)

    twin = oracle_twin("CartPole-v1")
    exact, known = (
        measure_horizons(each, episodes)
        for each in (twin, dataclasses.replace(twin, termination_fn=never))
    )
    assert exact.termination.precision == exact.termination.recall == 1.0
    assert exact.survival.learned == exact.survival.real
    assert known.termination is None and known.survival.learned[-1] == 1.0


@pytest.mark.parametrize(
    ("says", "rank", "chance"),
    [
        (lambda off, pace: off, 1.0, 1.0),
        (lambda off, pace: -off, -1.0, 0.0),
        # Said at the first step and never again: what was said on the way counts.
        (lambda off, pace: torch.where(off == pace, off, 0.0), 1.0, 1.0),
    ],
)
def test_an_uncertainty_that_is_the_error_ranks_it(
    says: Any, rank: float, chance: float, episodes: list[Episode]
) -> None:
    told = measure_horizons(planted(drift=0.01, says=says), episodes)
    ranking, rows = told.uncertainty, told.observation.windows
    assert ranking.steps == told.observation.steps
    enough = [number >= 20 for number in rows]
    assert any(enough) and not all(enough)
    assert ranking.spearman == [rank if each else None for each in enough]
    assert ranking.auroc == [chance if each else None for each in enough]


def test_a_model_without_uncertainty_has_no_ranking(episodes: list[Episode]) -> None:
    class Silent(CartPoleOracle):
        def step(self, state: State, action: Tensor, **options: Any) -> tuple[State, Prediction]:
            return super().step(state, action, rng=options["rng"])

    assert measure_horizons(planted(Silent), episodes).uncertainty is None


def test_trust_ends_where_the_error_is_first_too_large(episodes: list[Episode]) -> None:
    reached = [
        measure_horizons(planted(drift=drift), episodes).trusted_horizon
        for drift in (0.3, 0.02, 0.0001)
    ]
    assert reached[0] < reached[1] < reached[2] == max(map(len, episodes))


@pytest.mark.parametrize(
    ("error", "still", "trusted"),
    [
        ([0.1, 0.2, 0.3], [1.0, 1.0, 1.0], 5),
        ([0.1, 0.6, 0.3], [1.0, 1.0, 1.0], 1),  # not half of what moved, nor again trusted later
        ([0.1, 0.2, 0.6], [1.0, 1.0, 2.0], 2),  # half of what moved, but not of the data
        ([0.1, 0.2, 0.3], [0.1, 1.0, 1.0], 0),
        ([0.1, math.nan, 0.3], [1.0, 1.0, 1.0], 1),
    ],
)
def test_both_bounds_must_hold_at_every_step_before(
    error: list[float], still: list[float], trusted: int
) -> None:
    assert _trusted([1, 2, 5], torch.tensor(error), torch.tensor(still)) == trusted


def test_pixels_do_not_drown_numbers() -> None:
    real = {"picture": torch.zeros(1, 1, 64, 64), "state": torch.zeros(1, 3)}
    scale = {"picture": torch.ones(64 * 64), "state": torch.ones(3)}
    lost = errors_per_row(real | {"state": torch.full((1, 3), 5.0)}, real, scale)
    blurred = errors_per_row(real | {"picture": torch.full((1, 1, 64, 64), 5.0)}, real, scale)
    assert float(lost) == pytest.approx(float(blurred)) == pytest.approx(5.0 / math.sqrt(2.0))


def test_a_model_in_which_nothing_moves_is_not_trusted(episodes: list[Episode]) -> None:
    class Frozen(CartPoleOracle):
        def step(self, state: State, action: Tensor, **options: Any) -> tuple[State, Prediction]:
            return state, super().step(state, action, **options)[1]

    told = measure_horizons(planted(Frozen), episodes)
    assert told.trusted_horizon == 0
    assert told.observation.error == told.observation.hold_last


def test_a_model_that_leaves_the_numbers_gives_strict_json(episodes: list[Episode]) -> None:
    class Wild(CartPoleOracle):
        def decode(self, state: State) -> Observation:
            return {"observation": state["physics"] * math.inf}

    told = measure_horizons(planted(Wild), episodes)
    json.dumps(told.to_json(), allow_nan=False)
    assert told.trusted_horizon == 0
    assert told.observation.error[0] == [None] * len(told.observation.steps)
    assert told.uncertainty.auroc[0] is None


def test_an_images_pixels_count_as_one_dimension() -> None:
    spec = spec_of(EnvConfig("counting:Counting-v0", {"parts": True}))
    rng = np.random.default_rng(0)
    parts = {
        "box": rng.normal(size=(31, 3)).astype(np.float32),
        "pixels": rng.integers(0, 256, (31, 2, 2, 3)).astype(np.uint8),
        "mode": rng.integers(0, 3, 31),
    }
    episode = Episode(parts, rng.integers(0, 3, 30), np.zeros(30), True, False)
    told = measure_horizons(still_twin(spec), [episode])
    seen = told.observation
    assert sorted(seen.names) == [
        *(f"{key}[{i}]" for key in ("box", "mode") for i in range(3)),
        "pixels",
    ]
    assert seen.error == seen.hold_last and len(seen.error) == len(seen.names)
    assert told.survival.learned == [1.0] * len(told.survival.steps)


def test_curves_are_told_at_few_steps() -> None:
    assert measured_steps(1) == [1]
    assert measured_steps(10) == [1, 2, 5, 10]
    assert measured_steps(999) == [1, 2, 5, 10, 20, 50, 100, 200, 500, 999]
    assert len(measured_steps(20_000)) <= 15
