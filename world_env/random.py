"""Counter-based noise: one independent stream for each row of a batch.

Row i's k-th draw is a hash of (its seed, k, the element's place) and of nothing else, so restarting,
adding or removing a row never shifts the noise of its neighbours, and a stream is stored as two integers.
Source: SplitMix64 of Steele, Lea & Flood 2014 (OOPSLA) as the hash; Salmon et al. 2011 (SC) for
counter-based streams; Box & Muller 1958 for the normal law.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """The int64 with the same bits as an unsigned 64-bit constant."""
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)
_PLACE = _signed(0xD1B54A32D192ED03)


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's `>>` on int64 keeps the sign, the hash must not."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def hash64(value: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 tensors (wrapping arithmetic), any shape."""
    value = value + _GOLDEN
    value = (value ^ _shift_right(value, 30)) * _MIX_1
    value = (value ^ _shift_right(value, 27)) * _MIX_2
    return value ^ _shift_right(value, 31)


def derive_seeds(seeds: Tensor, number: Tensor | int) -> Tensor:
    """New (B,) int64 seeds, one for each (seed, number): the seed of a row's n-th episode."""
    return hash64(
        hash64(seeds) ^ (number * _PLACE if isinstance(number, Tensor) else _wrap(number))
    )


def _wrap(number: int) -> int:
    return _signed((number * (_PLACE & ((1 << 64) - 1))) & ((1 << 64) - 1))


class RowRandom:
    """Noise for B rows, each with a stream of its own.

    seeds: (B,) int64, what makes a stream.
    draws: (B,) int64, how often the row has drawn; every call advances it by one.
    """

    def __init__(self, seeds: Tensor, draws: Tensor | None = None) -> None:
        self.seeds = seeds.to(torch.int64)
        self.draws = torch.zeros_like(self.seeds) if draws is None else draws.to(torch.int64)
        if self.seeds.ndim != 1 or self.seeds.shape != self.draws.shape:
            raise ValueError(
                f"RowRandom needs seeds and draws of one shape (B,), got {tuple(self.seeds.shape)} "
                f"and {tuple(self.draws.shape)}"
            )

    @classmethod
    def from_seed(cls, seed: int, rows: int, *, device: torch.device | str = "cpu") -> RowRandom:
        """Streams for `rows` rows, row i with the seed `seed` + i."""
        return cls(torch.arange(rows, dtype=torch.int64, device=device) + seed)

    def __len__(self) -> int:
        return self.seeds.shape[0]

    def clone(self) -> RowRandom:
        """The same streams at the same place, to draw the same numbers again."""
        return RowRandom(self.seeds.clone(), self.draws.clone())

    def select(self, rows: Tensor) -> RowRandom:
        """The streams of some rows, by index (rows may repeat)."""
        return RowRandom(self.seeds[rows], self.draws[rows])

    def replace(self, mask: Tensor, other: RowRandom) -> None:
        """Take over the streams of `other` (B rows) where `mask` (B,) bool is set."""
        self.seeds = torch.where(mask, other.seeds, self.seeds)
        self.draws = torch.where(mask, other.draws, self.draws)

    def bits(self, shape: tuple[int, ...]) -> Tensor:
        """Returns (B, *shape) int64, every bit fair."""
        key = hash64(hash64(self.seeds) ^ (self.draws * _PLACE))
        self.draws = self.draws + 1
        count = math.prod(shape)
        places = torch.arange(count, dtype=torch.int64, device=key.device) * _GOLDEN
        return hash64(key[:, None] + places[None, :]).reshape(len(self), *shape)

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns (B, *shape) uniform in (0, 1); 23 random bits as float32, 53 as float64."""
        width = 53 if dtype == torch.float64 else 24
        bits = _shift_right(self.bits(shape), 64 - width)
        if width == 53:
            return (bits.to(dtype) + 0.5) * 2.0**-53
        # float32 cannot hold k + 0.5 for k of 24 bits: the sum is formed in halves, on odd numbers.
        return ((bits & ~1) + 1).to(dtype) * 2.0**-24

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns (B, *shape) standard normal; the tails end at 5.8 (float32)."""
        bits = self.bits(shape)
        radius = ((_shift_right(bits, 40) | 1).to(dtype) * 2.0**-24).log().mul(-2.0).sqrt()
        angle = ((bits & 0xFFFFFF).to(dtype)) * (2.0 * math.pi * 2.0**-24)
        return radius * angle.cos()

    def categorical(self, probabilities: Tensor) -> Tensor:
        """Draw one class a row from (B, C) probabilities; returns (B,) int64 in [0, C)."""
        cumulative = probabilities.cumsum(-1)
        threshold = self.uniform(1, dtype=probabilities.dtype) * cumulative[:, -1:]
        return (cumulative < threshold).sum(-1).clamp(max=probabilities.shape[-1] - 1)

    def integers(self, high: int) -> Tensor:
        """Returns (B,) int64 uniform in [0, high)."""
        fraction = self.uniform(1, dtype=torch.float64).squeeze(-1)
        return (fraction * high).to(torch.int64).clamp(max=high - 1)
