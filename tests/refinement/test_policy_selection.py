"""Who is left and who is looked at next, from twins' words and spot checks."""

import pytest

from world_env.refinement.policy_selection import best_of, last_miss, returns_of, standing


def check(policy: str, promise: float, *returns: float) -> dict:
    return {"policy": policy, "predicted_return": promise, "returns": list(returns)}


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
    assert standing(10.0, [], None).doubt is None
    unseen, seen = standing(10.0, [], 4.0), standing(10.0, [2.0, 3.0, 1.0], 4.0)
    assert (unseen.mean, unseen.low, unseen.high) == (10.0, 6.0, 14.0)
    assert (seen.mean, seen.low, seen.high) == (4.0, 2.0, 6.0)


def test_a_twin_is_as_wrong_as_the_worst_of_its_last_three_words() -> None:
    checks = [check("a", 100.0, 0.0), check("a", 5.0, 4.0, 8.0), check("b", 3.0, 1.0)]
    assert last_miss([]) is None
    assert last_miss(checks) == 100.0
    assert last_miss([*checks, check("c", 0.0, 1.5)]) == 2.0
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
