"""Measures of agreement: against scipy, by hand, and on returns with a known answer."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from world_env.errors import InvalidOptionError
from world_env.policy_evaluation.correlation import (
    PolicyReturns,
    bootstrap,
    ceiling,
    mmrv,
    pearson,
    regret,
    spearman,
    statistics,
)

MEANS = np.linspace(0.0, 100.0, 24)


def policies(
    real: np.ndarray, learned: np.ndarray, *, noise: float = 0.0, runs: int = 8, seed: int = 0
) -> list[PolicyReturns]:
    """One policy a mean; episodes vary by `noise`, alike in both worlds."""
    rng = np.random.default_rng(seed)
    found = []
    for i, (mine, theirs) in enumerate(zip(real, learned, strict=True)):
        episodes = noise * rng.normal(size=40)
        found.append(
            PolicyReturns(
                f"p{i}",
                f"r{i * runs // len(real)}",  # neighbours share a run
                "evaluation",
                mine + episodes,
                theirs + episodes,
            )
        )
    return found


def test_correlations_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    real, learned = rng.normal(size=30).round(1), rng.normal(size=30).round(1)  # with ties
    assert pearson(real=real, learned=learned) == pytest.approx(pearsonr(real, learned).statistic)
    assert spearman(real=real, learned=learned) == pytest.approx(spearmanr(real, learned).statistic)


@pytest.mark.parametrize("measure", [pearson, spearman])
def test_a_correlation_of_nothing_is_unknown(measure) -> None:
    assert measure(real=np.arange(2.0), learned=np.arange(2.0)) is None
    assert measure(real=np.ones(5), learned=np.arange(5.0)) is None
    assert measure(real=np.arange(5.0), learned=np.ones(5)) is None


def test_mmrv_is_weighed_by_the_real_gap() -> None:
    apart, close = np.array([0.0, 10.0]), np.array([1.0, 0.0])
    assert mmrv(real=apart, learned=close) == 10.0
    assert mmrv(real=close, learned=apart) == 1.0
    with pytest.raises(TypeError):
        mmrv(apart, close)  # type: ignore[misc]


def test_mmrv_takes_the_worst_violation_of_each_policy() -> None:
    real, learned = np.array([0.0, 1.0, 5.0]), np.array([2.0, 1.0, 3.0])
    # The first two are swapped and 1 apart; the third is in its place.
    assert mmrv(real=real, learned=learned) == pytest.approx(2.0 / 3.0)
    assert mmrv(real=real, learned=real) == 0.0


def test_regret_is_what_the_twins_favourites_lack() -> None:
    real, learned = np.array([1.0, 7.0, 9.0, 4.0]), np.array([9.0, 8.0, 1.0, 2.0])
    assert regret(real=real, learned=learned, k=1) == 8.0
    assert regret(real=real, learned=learned, k=3) == 2.0
    assert regret(real=real, learned=learned, k=4) == 0.0


def test_an_exact_twin_agrees_and_a_constant_error_is_bias() -> None:
    exact = statistics(policies(MEANS, MEANS, noise=5.0))
    assert exact.pearson == pytest.approx(1.0)
    assert exact.pearson_ci95 == pytest.approx([1.0, 1.0])
    assert (exact.mmrv, exact.bias, exact.mae, exact.regret1) == (0.0, 0.0, 0.0, 0.0)
    assert (exact.policies, exact.runs) == (24, 8)
    shifted = statistics(policies(MEANS, MEANS + 7.0))
    assert shifted.pearson == pytest.approx(1.0)
    assert (shifted.bias, shifted.mae) == pytest.approx((7.0, 7.0))
    assert shifted.bias_fraction == pytest.approx(0.07)
    assert statistics(policies(MEANS, MEANS + 7.0), span=700.0).bias_fraction == pytest.approx(0.01)


def test_the_upper_half_sees_what_the_whole_hides() -> None:
    learned = MEANS.copy()
    learned[12:] = learned[12:][::-1]
    found = statistics(policies(MEANS, learned), intervals=False)
    assert found.spearman > 0.7
    assert found.spearman_upper_half == pytest.approx(-1.0)


def test_the_ceiling_falls_with_the_noise_of_reality() -> None:
    rng = np.random.default_rng(0)
    quiet = policies(MEANS, MEANS)
    loud = [
        PolicyReturns(f"p{i}", f"r{i}", "evaluation", part, part)
        for i, part in enumerate(rng.normal(size=(24, 40)))
    ]
    assert ceiling(quiet) == pytest.approx(1.0)
    assert abs(ceiling(loud) or 0.0) < 0.2
    assert ceiling(quiet, mmrv) == 0.0


def test_one_run_with_many_policies_is_little_evidence() -> None:
    rng = np.random.default_rng(1)
    learned = MEANS + 15.0 * rng.normal(size=24)
    few, many = (bootstrap([policies(MEANS, learned, runs=n)])["pearson_ci95"] for n in (3, 24))
    assert few[1] - few[0] > many[1] - many[0]
    assert bootstrap([policies(MEANS, learned)]) == bootstrap([policies(MEANS, learned)])


def test_starts_that_are_easy_for_everybody_are_no_agreement() -> None:
    starts = 10.0 * np.random.default_rng(0).normal(size=12)
    unlike = [
        PolicyReturns(f"p{i}", f"r{i}", "evaluation", mine + starts, (-1) ** i + starts)
        for i, mine in enumerate(np.linspace(-1.0, 1.0, 24))
    ]
    low, high = bootstrap([unlike])["pearson_ci95"]
    assert low < 0 < high


def test_policies_that_are_all_alike_have_no_correlation() -> None:
    part = np.random.default_rng(0).normal(size=7)
    alike = [PolicyReturns(f"p{i}", f"r{i}", "evaluation", part, part) for i in range(7)]
    assert bootstrap([alike])["pearson_ci95"] is None


def test_the_interval_spans_several_twins() -> None:
    good, bad = policies(MEANS, MEANS), policies(MEANS, MEANS[::-1])
    low, high = bootstrap([good, bad])["pearson_ci95"]
    assert low == pytest.approx(-1.0)
    assert high == pytest.approx(1.0)


def test_unequal_sides_are_refused() -> None:
    with pytest.raises(InvalidOptionError, match="one mean per policy"):
        pearson(real=np.ones(3), learned=np.ones(4))
    with pytest.raises(InvalidOptionError, match="no policy"):
        statistics([])
