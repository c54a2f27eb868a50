"""Counter-based noise: one independent stream for each row of a batch.

Row i's k-th draw is a hash of (its seed, k, the element's place) and of nothing else, so restarting,
adding or removing a row never shifts the noise of its neighbours, and a stream is stored as two integers.
Source: SplitMix64 of Steele, Lea & Flood 2014 (OOPSLA) as the hash; Salmon et al. 2011 (SC) for
counter-based streams; Box & Muller 1958 for the normal law.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def _signed(value: int) -> int:
    """The int64 with the same bits as an unsigned 64-bit constant."""
    return value - (1 << 64) if value >= 1 << 63 else value


_MASK = (1 << 64) - 1
_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)
_PLACE = _signed(0xD1B54A32D192ED03)


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's `>>` on int64 keeps the sign, the hash must not."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def hash64(value: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 tensors (wrapping arithmetic), any shape."""
    if value.device.type == "cpu":
        # numpy has unsigned numbers, whose shifts need no mask, and quicker calls.
        return torch.from_numpy(_mix(value.numpy().view(np.uint64)).view(np.int64))
    value = value + _GOLDEN
    value = (value ^ _shift_right(value, 30)) * _MIX_1
    value = (value ^ _shift_right(value, 27)) * _MIX_2
    return value ^ _shift_right(value, 31)


def _mix(value: np.ndarray) -> np.ndarray:
    """`hash64` on uint64, in place but for its first sum: new arrays would cost more than the arithmetic."""
    value = np.atleast_1d(value) + np.uint64(_GOLDEN & _MASK)
    shifted = np.empty_like(value)
    for bits, factor in ((30, _MIX_1), (27, _MIX_2)):
        np.right_shift(value, np.uint64(bits), out=shifted)
        np.bitwise_xor(value, shifted, out=value)
        np.multiply(value, np.uint64(factor & _MASK), out=value)
    np.right_shift(value, np.uint64(31), out=shifted)
    return np.bitwise_xor(value, shifted, out=value)


def derive_seeds(seeds: Tensor, number: Tensor | int) -> Tensor:
    """New (B,) int64 seeds, one for each (seed, number): the seed of a row's n-th episode."""
    return hash64(
        hash64(seeds) ^ (number * _PLACE if isinstance(number, Tensor) else _wrap(number))
    )


def _wrap(number: int) -> int:
    return _signed((number * (_PLACE & _MASK)) & _MASK)


_AHEAD_ELEMENTS, _AHEAD_DRAWS = 1 << 16, 64
"""Most numbers, and most draws, that are made at once: with few numbers, a call costs more than what it makes."""
_NOTHING_AHEAD = (0, 0, torch.empty(0))


class CounterRNG:
    """Noise for B rows, each with a stream of its own.

    seeds: (B,) int64, what makes a stream.
    draws: (B,) int64, how often the row has drawn; every call advances it by one.
    """

    def __init__(self, seeds: Tensor, draws: Tensor | None = None) -> None:
        self.seeds = seeds.to(torch.int64)
        self._base = torch.zeros_like(self.seeds) if draws is None else draws.to(torch.int64)
        if self.seeds.ndim != 1 or self.seeds.shape != self._base.shape:
            raise ValueError(
                f"CounterRNG needs seeds and draws of one shape (B,), got {tuple(self.seeds.shape)} "
                f"and {tuple(self._base.shape)}"
            )
        # `hash64(seeds)`, once it was needed: streams that are merged or placed before they draw never need it.
        self._hashed: Tensor | None = None
        # All rows draw together, so one number counts for all; nothing here is ever changed in place.
        self._drawn = 0
        # (law, numbers a row, dtype) -> first, end, (N, B, numbers): draws made ahead, shared with clones.
        self._ahead: dict[tuple[str, int, torch.dtype], tuple[int, int, Tensor]] = {}

    @classmethod
    def from_seed(cls, seed: int, rows: int, *, device: torch.device | str = "cpu") -> CounterRNG:
        """Streams for `rows` rows, row i with the seed `seed` + i."""
        return cls(torch.arange(rows, dtype=torch.int64, device=device) + seed)

    def __len__(self) -> int:
        return self.seeds.shape[0]

    @property
    def draws(self) -> Tensor:
        """(B,) int64, how often each row has drawn."""
        return self._base + self._drawn

    def clone(self) -> CounterRNG:
        """The same streams at the same place, to draw the same numbers again."""
        other = object.__new__(CounterRNG)
        other.seeds, other._base, other._drawn = self.seeds, self._base, self._drawn
        other._hashed, other._ahead = self._hashed, self._ahead
        return other

    def select(self, rows: Tensor) -> CounterRNG:
        """The streams of some rows, by index (rows may repeat)."""
        return CounterRNG(self.seeds[rows], self.draws[rows])

    def merge(self, mask: Tensor, other: CounterRNG) -> CounterRNG:
        """The streams of `other` (B rows) where `mask` (B,) bool is set, these elsewhere."""
        return CounterRNG(
            torch.where(mask, other.seeds, self.seeds), torch.where(mask, other.draws, self.draws)
        )

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns (B, *shape) uniform in (0, 1); 23 random bits as float32, 53 as float64."""
        return self._next(shape, "uniform", dtype)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns (B, *shape) standard normal; the tails end at 5.8 (float32)."""
        return self._next(shape, "normal", dtype)

    def _next(self, shape: tuple[int, ...], law: str, dtype: torch.dtype) -> Tensor:
        """The next draw of a law, made ahead where draws of it follow one another."""
        count = shape[0] if len(shape) == 1 else math.prod(shape)
        key, drawn = (law, count, dtype), self._drawn
        first, end, made = self._ahead.get(key, _NOTHING_AHEAD)
        if not first <= drawn < end:
            # Twice as far as last time if that was used up; after a restart, which makes new streams, one by one.
            fits = min(_AHEAD_DRAWS, _AHEAD_ELEMENTS // max(1, len(self) * count))
            ahead = 2 * (end - first) if drawn == end else 1
            end = drawn + max(1, min(ahead, fits))
            make = self._normals if law == "normal" else self._uniforms
            first, made = drawn, make(count, end - drawn, dtype)
            self._ahead[key] = (first, end, made)
        self._drawn = drawn + 1
        # What is made ahead is kept: the caller gets numbers of its own.
        values = made[drawn - first].clone()
        return values if len(shape) == 1 else values.reshape(len(self), *shape)

    def categorical(self, probabilities: Tensor) -> Tensor:
        """Draw one class a row from (B, C) probabilities; returns (B,) int64 in [0, C)."""
        cumulative = probabilities.cumsum(-1)
        threshold = self.uniform(1, dtype=probabilities.dtype) * cumulative[:, -1:]
        return (cumulative < threshold).sum(-1).clamp(max=probabilities.shape[-1] - 1)

    def integers(self, high: int) -> Tensor:
        """Returns (B,) int64 uniform in [0, high)."""
        fraction = self.uniform(1, dtype=torch.float64).squeeze(-1)
        return (fraction * high).to(torch.int64).clamp(max=high - 1)

    def _bits(self, count: int, draws: int) -> Tensor:
        """(draws, B, count) int64: this draw's bits and those of the next ones."""
        if self._hashed is None:
            self._hashed = hash64(self.seeds)
        ahead = torch.arange(self._drawn, self._drawn + draws, device=self.seeds.device)
        places = (self._base + ahead[:, None]) * _PLACE
        key = hash64(places.bitwise_xor_(self._hashed))
        elements = torch.arange(count, dtype=torch.int64, device=key.device) * _GOLDEN
        return hash64(key[..., None] + elements)

    def _uniforms(self, count: int, draws: int, dtype: torch.dtype) -> Tensor:
        """(draws, B, count) uniform in (0, 1)."""
        width = 53 if dtype == torch.float64 else 24
        bits = _shift_right(self._bits(count, draws), 64 - width)
        if width == 53:
            return (bits.to(dtype) + 0.5) * 2.0**-53
        # float32 cannot hold k + 0.5 for k of 24 bits: the sum is formed in halves, on odd numbers.
        return (bits | 1).to(dtype) * 2.0**-24

    def _normals(self, count: int, draws: int, dtype: torch.dtype) -> Tensor:
        """(draws, B, count) standard normal: two numbers from each hash, as Box and Muller give them."""
        half = -(-count // 2)
        bits = self._bits(half, draws)
        angle = (bits & 0xFFFFFF).to(dtype).mul_(2.0 * math.pi * 2.0**-24)
        radius = (bits.bitwise_right_shift_(40).bitwise_and_(0xFFFFFF) | 1).to(dtype)
        radius = radius.mul_(2.0**-24).log_().mul_(-2.0).sqrt_()
        return torch.cat([radius * angle.cos(), radius.mul_(angle.sin_())], -1)[..., :count]
