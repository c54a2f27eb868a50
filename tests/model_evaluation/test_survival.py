"""Ends that a twin gets wrong show in its survival curve, and an exact twin's is the real one."""

import dataclasses

import numpy as np
import pytest
from oracle import CartPoleOracle, OracleConfig, oracle_twin, real_episodes

from world_env.data.episode import Episode
from world_env.model_evaluation.survival import survival
from world_env.twin.twin import Twin
from world_env.types import JSON


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    """Some terminate, some are cut at their 30th step."""
    made = real_episodes("CartPole-v1", 24, steps=30)
    assert 0 < sum(episode.terminated for episode in made) < len(made)
    return made


class Shifted(CartPoleOracle):
    """Its poles fall at another angle. factor: of the real one."""

    factor = 1.0

    def step(self, state, action, **options):  # type: ignore[no-untyped-def]
        arrived, prediction = super().step(state, action, **options)
        over = arrived["physics"][:, 2].abs() > self.factor * 12 * np.pi / 180
        return arrived, dataclasses.replace(prediction, terminated=over.double())


def shifted(factor: float) -> Twin:
    twin = oracle_twin("CartPole-v1")
    model = Shifted(twin.spec, OracleConfig())
    model.factor = factor
    return dataclasses.replace(twin, model=model.eval())


def test_an_exact_twin_lives_as_long_as_reality(episodes: list[Episode]) -> None:
    curves = survival(oracle_twin("CartPole-v1"), episodes)
    assert curves is not None
    assert curves.steps == [1, 2, 5, 10, 20, 30] and curves.episodes == 24
    assert curves.learned == curves.real
    assert curves.real[0] == 1.0 and curves.real[-1] < 0.8


def gap(curves: JSON | None) -> float:
    """Largest difference, learned less real, with its sign."""
    assert curves is not None
    apart = np.array(curves.learned) - np.array(curves.real)
    return float(apart[np.abs(apart).argmax()])


def test_a_twin_that_ends_too_early_is_seen(episodes: list[Episode]) -> None:
    assert gap(survival(shifted(0.5), episodes)) < -0.2


def test_a_twin_that_ends_a_little_late_is_told_from_one_that_never_does(
    episodes: list[Episode],
) -> None:
    late, never = survival(shifted(1.4), episodes), survival(shifted(1e9), episodes)
    assert never is not None and never.learned == [1.0] * len(never.steps)
    assert 0.0 < gap(late) < 0.5 < gap(never)


def piece(steps: int, *, terminated: bool, elapsed: int = 0) -> Episode:
    return Episode(
        np.zeros((steps + 1, 4), np.float32),
        np.zeros(steps, np.int64),
        np.ones(steps, np.float32),
        terminated=terminated,
        truncated=not terminated,
        elapsed=elapsed,
    )


def test_an_episode_that_was_cut_counts_as_alive_until_then() -> None:
    cut = [piece(3, terminated=True), piece(4, terminated=False), piece(5, terminated=True)]
    curves = survival(oracle_twin("CartPole-v1"), [*cut, piece(9, terminated=False)])
    assert curves is not None
    assert curves.steps == [1, 2, 5, 9]
    # One of four after 3 steps; one of the two that are still in sight after 5.
    assert curves.real == [1.0, 1.0, 0.375, 0.375]


def test_without_an_end_there_is_no_curve() -> None:
    twin = oracle_twin("CartPole-v1")
    assert survival(twin, [piece(5, terminated=False)]) is None
    # A piece without its true start says nothing of how long episodes last.
    assert survival(twin, [piece(5, terminated=True, elapsed=7)]) is None


def test_a_known_end_is_the_one_that_counts(episodes: list[Episode]) -> None:
    def never(observation: np.ndarray, action: np.ndarray, after: np.ndarray) -> np.ndarray:
        return np.zeros(len(after), bool)

    twin = dataclasses.replace(oracle_twin("CartPole-v1"), termination_fn=never)
    curves = survival(twin, episodes)
    assert curves is not None and curves.learned[-1] == 1.0
