"""`lint` tells time limits, ends by chance and truncations by the state apart; it finds lost digits."""

import dataclasses

import numpy as np
import pytest
from gymnasium import spaces

from world_env.data.episode import Episode
from world_env.data.truncations import truncations_as_terminations
from world_env.data.validation.lint import lint
from world_env.spec import WorldSpec

SPEC = WorldSpec(
    spaces.Box(-50, 50, (2,), np.float32), spaces.Box(-1, 1, (1,), np.float32), horizon=100
)


def walks(
    count: int, *, edge: float = np.inf, chance: float = 0.0, truncates: bool = False, seed: int = 0
) -> list[Episode]:
    """A point that is pushed at random, until it passes the edge, by chance, or at the time limit of 100 steps."""
    rng = np.random.default_rng(seed)
    episodes = []
    for number in range(count):
        place, speed, ended = rng.uniform(-0.5, 0.5), 0.0, False
        seen, pushes = [[place, speed]], []
        while len(pushes) < 100 and not ended:
            push = rng.uniform(-1, 1)
            speed = 0.9 * speed + 0.3 * push
            place += 0.3 * speed
            seen.append([place, speed])
            pushes.append([push])
            ended = abs(place) > edge or rng.random() < chance
        observations = np.array(seen, np.float32)
        rewards = -(observations[1:, 0] ** 2)
        terminated = ended and not truncates
        arrays = (observations, np.array(pushes, np.float32), rewards)
        episodes.append(Episode(*arrays, terminated, not terminated, seed=number))
    return episodes


def found(episodes: list[Episode], spec: WorldSpec = SPEC) -> list[str]:
    return sorted({issue.check for issue in lint(episodes, spec) if issue.severity != "note"})


def test_ends_by_chance_are_told_from_ends_by_the_state() -> None:
    assert found(walks(60, edge=1.0)) == []
    assert found(walks(200, chance=0.2)) == ["chance_ends"]
    assert found(walks(60, chance=0.02)) == ["chance_ends"]
    (issue,) = lint(walks(200, chance=0.2), SPEC)
    assert issue.severity == "warning" and 'termination="sample"' in issue.message


def test_truncations_at_one_place_are_told_from_time_limits_and_cuts() -> None:
    assert found(walks(60, edge=1.0, truncates=True)) == ["state_truncation"]
    assert found(walks(60, truncates=True)) == []
    rng = np.random.default_rng(0)
    cut = [e.cut(0, int(rng.integers(20, 90))) for e in walks(60)]
    assert found(cut) == []


def test_truncations_that_the_state_tells_become_terminations_and_no_others() -> None:
    episodes = walks(60, edge=1.0, truncates=True)
    arrived = np.array([abs(e.observations[-1, 0]) > 1.0 for e in episodes])
    cut = episodes[0].cut(0, len(episodes[0]) // 2)
    made = truncations_as_terminations([*episodes, cut], SPEC)
    ended = np.array([e.terminated for e in made])
    assert ended[:60][arrived].mean() > 0.95 and not ended[:60][~arrived].any() and not ended[60]
    assert all(e.terminated != e.truncated for e in made)
    assert found(made[:60]) == []


@pytest.mark.parametrize("horizon", [None, 500])
def test_a_pile_of_terminations_at_one_length_is_a_time_limit(horizon: int | None) -> None:
    spec = dataclasses.replace(SPEC, horizon=horizon)
    piled = [
        dataclasses.replace(e.cut(0, min(len(e), 40)), terminated=True, truncated=False)
        for e in walks(60, edge=1.2)
    ]
    # Longer episodes as well: 40 is not the longest length.
    piled += [e for e in walks(40, edge=1.2, seed=1) if len(e) > 40][:6]
    (issue,) = [each for each in lint(piled, spec) if each.check == "time_limit"]
    assert issue.severity == "error" and "after exactly 40 steps" in issue.message


def test_a_time_limit_in_the_code_of_the_environment_is_named() -> None:
    cut = [e.cut(0, min(len(e), 60)) for e in walks(20, edge=3.0)]
    (issue,) = lint(cut, SPEC)
    assert (issue.check, issue.severity) == ("own_time_limit", "warning")
    assert "exactly 60 steps" in issue.message and "--horizon 60" in issue.message
    assert found(cut, dataclasses.replace(SPEC, horizon=60)) == []
    assert found([*cut, walks(1, seed=2)[0]]) == []  # one episode reaches the limit


def test_equal_episodes_of_different_seeds_are_no_copies() -> None:
    episodes = walks(10)
    twice = dataclasses.replace(episodes[3], seed=77)
    severity = {
        seed: [i.severity for i in lint([*episodes, dataclasses.replace(twice, seed=seed)], SPEC)]
        for seed in (77, 3, None)
    }
    assert severity == {77: ["warning"], 3: ["error"], None: ["error"]}


def test_one_reward_in_all_data_is_nothing_to_optimise() -> None:
    same = [dataclasses.replace(e, rewards=np.ones(len(e), np.float32)) for e in walks(20)]
    assert found(same) == ["constant_reward"]
    alive = [dataclasses.replace(e, rewards=np.ones(len(e))) for e in walks(60, edge=1.0)]
    assert found(alive) == []


def test_an_offset_that_costs_float32_its_digits_is_found() -> None:
    spec = dataclasses.replace(
        SPEC, observation_space=spaces.Box(-np.inf, np.inf, (2,), np.float32)
    )

    def shifted(dtype: type, offset: float) -> list[tuple[str, str]]:
        far = [
            dataclasses.replace(e, observations=(e.observations.astype(dtype) + dtype(offset)))
            for e in walks(20)
        ]
        return [(i.severity, i.where) for i in lint(far, spec) if i.check == "precision"]

    assert shifted(np.float32, 1e8) == [("warning", "observation[0]")]
    assert shifted(np.float64, 1e8) == [("note", "observation[0]")]
    assert shifted(np.float32, 1e3) == shifted(np.float64, 0.0) == []
    # A counter of whole numbers is exact.
    counted = [
        dataclasses.replace(
            e,
            observations=np.stack(
                [e.observations[:, 0], 9e6 + np.arange(len(e) + 1.0)], 1, dtype=np.float32
            ),
        )
        for e in walks(20)
    ]
    assert "precision" not in found(counted, spec)
