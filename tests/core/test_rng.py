"""CounterRNG: good noise, one stream a row, replayable."""

import math

import pytest
import torch
from scipy import stats

from world_env.rng import CounterRNG, derive_seeds

N = 200_000


def stream(rows: int = 1) -> CounterRNG:
    return CounterRNG.from_seed(0, rows)


def test_uniform() -> None:
    for dtype in (torch.float32, torch.float64):
        values = stream().uniform(N, dtype=dtype).squeeze(0)
        assert values.dtype == dtype and values.min() > 0 and values.max() < 1
        assert stats.kstest(values.double().numpy(), "uniform").pvalue > 1e-3


def test_normal() -> None:
    for dtype in (torch.float32, torch.float64):
        values = stream().normal(N, dtype=dtype).squeeze(0).double()
        assert torch.isfinite(values).all()
        assert stats.kstest(values.numpy(), "norm").pvalue > 1e-3
        assert abs(values.mean()) < 4 / math.sqrt(N)
        assert abs(values.var() - 1) < 4 * math.sqrt(2 / N)
        assert abs((values**4).mean() - 3) < 4 * math.sqrt(96 / N)


def test_categorical() -> None:
    shares = torch.tensor([0.1, 0.0, 0.6, 0.3])
    drawn = stream(N).categorical(shares.expand(N, 4))
    counts = torch.bincount(drawn, minlength=4)
    assert counts[1] == 0
    kept = shares > 0
    expected = N * shares[kept].double().numpy() / shares[kept].double().sum().item()
    assert stats.chisquare(counts[kept].numpy(), expected).pvalue > 1e-3
    # Weights need no normalising.
    assert torch.equal(stream(50).categorical(shares.expand(50, 4) * 7), drawn[:50])


def test_categorical_over_groups() -> None:
    shares = torch.tensor([[0.1, 0.0, 0.6, 0.3], [0.25, 0.25, 0.25, 0.25], [0.0, 0.5, 0.0, 2.0]])
    drawn = stream(N).categorical(shares.expand(N, 3, 4))
    assert drawn.shape == (N, 3) and drawn.dtype is torch.int64
    for group, share in enumerate(shares):
        counts, kept = torch.bincount(drawn[:, group], minlength=4), share > 0
        assert counts[~kept].sum() == 0
        kept_shares = share[kept].double()
        expected = N * (kept_shares / kept_shares.sum()).numpy()
        assert stats.chisquare(counts[kept].numpy(), expected).pvalue > 1e-3
    table = torch.bincount(4 * drawn[:, 0] + drawn[:, 1], minlength=16).view(4, 4)
    assert stats.chi2_contingency(table[[0, 2, 3]].numpy()).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_categorical_groups_are_exact_and_rows_independent(dtype: torch.dtype) -> None:
    shares = stream(50).uniform(3, 4, dtype=dtype)
    plain = stream(50).categorical(shares[:, 0])
    assert torch.equal(stream(50).categorical(shares[:, :1])[:, 0], plain)
    drawn, rows = stream(50).categorical(shares), torch.tensor([7, 3])
    assert torch.equal(stream(50).select(rows).categorical(shares[rows]), drawn[rows])
    # The definition: the first class whose cumulative share reaches the threshold.
    threshold = stream(50).uniform(3, dtype=dtype) * shares.sum(-1)
    for row, group in ((0, 0), (17, 2), (49, 1)):
        total = 0.0
        for first in range(4):
            total += float(shares[row, group, first])
            if total >= float(threshold[row, group]) - 1e-6:
                break
        assert int(drawn[row, group]) == first


def test_integers() -> None:
    drawn = stream(N).integers(7)
    assert stats.chisquare(torch.bincount(drawn, minlength=7).numpy()).pvalue > 1e-3
    assert stream(50).integers(1).max() == 0


@pytest.mark.parametrize("axis", ["elements", "draws", "rows", "episodes"])
def test_nothing_is_correlated(axis: str) -> None:
    """Neighbouring elements, draws, row seeds and episodes are independent."""
    if axis == "elements":
        values = stream().normal(N).squeeze(0)
    elif axis == "draws":
        rng = stream()
        values = torch.stack([rng.normal(1).squeeze() for _ in range(4000)])
    elif axis == "rows":
        values = stream(N).normal(1).squeeze(1)
    else:
        seeds = derive_seeds(torch.zeros(N, dtype=torch.int64), torch.arange(N))
        values = CounterRNG(seeds).normal(1).squeeze(1)
    for lag in (1, 2, 16):
        correlation = torch.corrcoef(torch.stack([values[:-lag], values[lag:]]))[0, 1]
        assert abs(correlation) < 4.5 / math.sqrt(len(values))
        squares = torch.corrcoef(torch.stack([values[:-lag] ** 2, values[lag:] ** 2]))[0, 1]
        assert abs(squares) < 6 / math.sqrt(len(values))
    assert stats.kstest(values.double().numpy(), "norm").pvalue > 1e-3


def test_every_bit_is_fair() -> None:
    bits = stream()._bits(50_000, 1)[0, 0]
    shares = torch.stack([((bits >> place) & 1).double().mean() for place in range(64)])
    assert (shares - 0.5).abs().max() < 5 * 0.5 / math.sqrt(50_000)


def test_a_row_depends_on_its_own_seed_and_draws_only() -> None:
    many, alone = CounterRNG.from_seed(5, 8), CounterRNG.from_seed(8, 1)
    for _ in range(3):
        assert torch.equal(many.normal(4)[3], alone.normal(4)[0])
    chosen = many.select(torch.tensor([3, 3, 0]))
    first = chosen.uniform(2)
    assert torch.equal(first[0], first[1]) and torch.equal(first[0], alone.uniform(2)[0])


def test_merge_leaves_other_rows_alone() -> None:
    rng, other = CounterRNG.from_seed(0, 4), CounterRNG.from_seed(100, 4)
    rng.uniform(1)
    kept = rng.clone()
    mask = torch.tensor([True, False, False, True])
    rng = rng.merge(mask, other)
    drawn = rng.normal(3)
    assert torch.equal(drawn[mask], other.normal(3)[mask])
    assert torch.equal(drawn[~mask], kept.normal(3)[~mask])


def test_two_integers_are_the_whole_stream() -> None:
    rng = CounterRNG.from_seed(3, 5)
    rng.normal(2)
    again = CounterRNG(rng.seeds.clone(), rng.draws.clone())
    assert torch.equal(rng.normal(7), again.normal(7))


def test_episode_seeds_differ() -> None:
    seeds = torch.arange(300).repeat_interleave(300)
    derived = derive_seeds(seeds, torch.arange(300).repeat(300))
    assert len(derived.unique()) == 300 * 300
    assert torch.equal(derive_seeds(seeds, 7), derive_seeds(seeds, torch.full_like(seeds, 7)))


def test_streams_need_matching_shapes() -> None:
    with pytest.raises(ValueError, match="one shape"):
        CounterRNG(torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    assert len(CounterRNG.from_seed(-3, 2)) == 2


def test_the_global_generator_is_never_touched() -> None:
    before = torch.get_rng_state()
    rng = stream(4)
    rng.normal(3), rng.uniform(3), rng.integers(5), rng.categorical(torch.ones(4, 2))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("rows", [1, 2, 40])
def test_numbers_made_ahead_are_those_made_one_by_one(rows: int) -> None:
    ahead = CounterRNG.from_seed(11, rows)
    for count in range(150):
        shape = (5,) if count % 7 else (2, 3)
        fresh = CounterRNG(ahead.seeds.clone(), ahead.draws.clone())
        copy = ahead.clone()
        drawn = ahead.normal(*shape)
        assert torch.equal(drawn, fresh.normal(*shape)) and torch.equal(drawn, copy.normal(*shape))
        drawn.zero_()
    assert int(ahead.draws[0]) == 150


def test_a_short_episode_of_few_rows_hashes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made, bits = [], CounterRNG._bits

    def counted(self: CounterRNG, count: int, draws: int) -> torch.Tensor:
        made.append(draws)
        return bits(self, count, draws)

    monkeypatch.setattr(CounterRNG, "_bits", counted)
    for rows, calls in ((1, 1), (2, 1), (100, 5)):
        rng = CounterRNG.from_seed(3, rows)
        made.clear()
        for _ in range(20):
            rng.normal(4)
        assert len(made) == calls, rows


def test_the_two_numbers_of_one_hash_are_independent() -> None:
    drawn = CounterRNG.from_seed(0, 200_000).normal(2).double()
    for powers in ((1, 1), (2, 2), (1, 3)):
        left, right = (drawn[:, i] ** power for i, power in enumerate(powers))
        correlation = torch.corrcoef(torch.stack([left, right]))[0, 1]
        assert abs(float(correlation)) < 0.01
