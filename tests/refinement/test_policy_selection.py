"""Selection of a policy and of the next contender, from learned returns and real evaluation episodes."""

from collections.abc import Sequence

import numpy as np
import pytest
from oracle import oracle_twin

from training.scripted_policies import balance
from world_env.refinement.policy_selection import (
    best_of,
    combined_estimate,
    estimate_return,
    last_twin_error,
    predicted_return,
    returns_of,
)
from world_env.results.round_log import PredictedReturn, RealEvaluation
from world_env.rollouts.learned import run_learned
from world_env.rollouts.returns import Returns


def scripted(observation: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return balance(observation)


def left(observation: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.zeros(len(observation), np.int64)


def test_an_estimate_is_the_mean_learned_return() -> None:
    assert estimate_return(scripted, oracle_twin("CartPole-v1", horizon=60)) == 60.0
    twin = oracle_twin("CartPole-v1", horizon=20)
    assert estimate_return(scripted, twin) == 20.0
    assert estimate_return(left, twin) < 12.0


def test_what_is_unknown_counts_as_the_rule_says() -> None:
    twin = oracle_twin("CartPole-v1", horizon=30)
    first = twin.codec.decode_observation(twin.starts.last())
    assert twin.uncertainty_threshold is None
    assert run_learned(scripted, twin, first, on_uncertain="pessimistic").mean == 30.0


def check(policy: str, promise: float, *returns: float) -> RealEvaluation:
    return RealEvaluation(round=0, policy=policy, predicted_return=promise, returns=list(returns))


@pytest.mark.parametrize(
    ("estimates", "best"),
    [
        ({"a": 100.0, "new": 95.0}, "new"),
        ({"a": 100.0, "new": 85.0}, "a"),
        ({"a": -100.0, "new": -105.0}, "new"),
        ({"a": -100.0, "new": -120.0}, "a"),
        ({"a": 1.0, "b": 3.0, "new": 0.0}, "b"),
        ({"a": 1.0, "new": 95.0, "fresh": 100.0}, "new"),
        ({"a": 1.0, "new": 80.0, "fresh": 100.0}, "fresh"),
    ],
)
def test_unchecked_another_policy_has_to_be_clearly_better(
    estimates: dict[str, float], best: str
) -> None:
    assert best_of(estimates, [], "new") == (best, best)


def test_a_twins_word_counts_like_one_real_episode() -> None:
    assert combined_estimate(10.0, [], None).half_width is None
    unseen = combined_estimate(10.0, [], 4.0)
    seen = combined_estimate(10.0, [2.0, 3.0, 1.0], 4.0)
    assert (unseen.mean, unseen.low, unseen.high) == (10.0, 6.0, 14.0)
    assert (seen.mean, seen.low, seen.high) == (4.0, 2.0, 6.0)


def learned(*values: float, members: Sequence[int] | None) -> Returns:
    found = None if members is None else np.array(members)
    return Returns(np.array(values), np.ones(len(values)), None, members=found)


def test_members_and_real_evaluations_give_the_interval_of_a_predicted_return() -> None:
    # Means of the members: 2 and 8, around 4.
    mixed = learned(1.0, 3.0, 2.0, 2.0, 8.0, 8.0, members=[0, 0, 0, 0, 1, 1])
    assert mixed.by_member().tolist() == [2.0, 8.0]
    assert predicted_return(mixed, [], []) == PredictedReturn(mean=4.0, low=0.0, high=8.0)
    assert predicted_return(mixed, [], [check("a", 9.0, 4.0)]).high == 9.0
    assert predicted_return(mixed, [], [check("a", 5.0, 4.0)]).high == 8.0
    assert predicted_return(mixed, [6.0, 8.0, 2.0], []) == PredictedReturn(
        mean=5.0, low=3.0, high=7.0
    )
    for one in (learned(1.0, 3.0, members=None), learned(1.0, 3.0, members=[2, 2])):
        assert predicted_return(one, [], []) == PredictedReturn(mean=2.0, low=None, high=None)


def test_a_twin_is_as_wrong_as_the_worst_of_its_last_three_words() -> None:
    checks = [check("a", 100.0, 0.0), check("a", 5.0, 4.0, 8.0), check("b", 3.0, 1.0)]
    assert last_twin_error([]) is None
    assert last_twin_error(checks) == 100.0
    assert last_twin_error([*checks, check("c", 0.0, 1.5)]) == 2.0
    assert returns_of(checks) == {"a": [0.0, 4.0, 8.0], "b": [1.0]}


def test_who_is_known_to_be_good_is_left_and_who_may_be_better_is_looked_at() -> None:
    checks = [check("good", 2_100.0, 2_900.0)]
    estimates = {"good": 2_200.0, "new": 3_000.0}
    # 2,550 +- 566 against 3,000 +- 800.
    assert best_of(estimates, checks, "new") == ("new", "new")
    checks.append(check("new", 3_000.0, 1_150.0))
    # The twin is wrong by 1,850 now: 2,550 +- 1,308 against 2,075 +- 1,308, and who was never looked at.
    estimates |= {"newest": 2_500.0}
    assert best_of(estimates, checks, "newest") == ("good", "newest")
    # Twins that are right are believed.
    exact = [check("good", 2_880.0, 2_900.0), check("new", 1_140.0, 1_150.0)]
    assert best_of(estimates | {"newest": 2_990.0}, exact, "newest") == ("newest", "newest")


def test_of_equals_the_newest_is_taken() -> None:
    checks = [check("gone", 5.0, 5.0)]
    assert best_of({"a": 7.0, "b": 7.0}, checks, "b") == ("b", "b")
