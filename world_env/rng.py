"""Counter-based random numbers: one independent stream per batch row.

Draw k of row i is a hash of (seed of row i, k, index of the element) and of nothing else. Resetting, adding or removing
a row never changes the numbers of another row, and a stream is stored as two integers.
Source: SplitMix64 of Steele, Lea & Flood 2014 (OOPSLA) as the hash; Salmon et al. 2011 (SC) for
counter-based streams; Box & Muller 1958 for the normal distribution.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def _signed(value: int) -> int:
    """Reinterpret an unsigned 64-bit constant as int64."""
    return value - (1 << 64) if value >= 1 << 63 else value


_MASK = (1 << 64) - 1
_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)
_PLACE = _signed(0xD1B54A32D192ED03)
# numpy scalars are made once: making one costs as much as an operation on a small array.
_UGOLDEN, _UMIX_1, _UMIX_2 = (np.uint64(constant & _MASK) for constant in (_GOLDEN, _MIX_1, _MIX_2))
_U27, _U30, _U31 = np.uint64(27), np.uint64(30), np.uint64(31)


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64. torch's `>>` copies the sign bit, which the hash must not do."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def hash64(value: Tensor) -> Tensor:
    """Hash int64 tensors of any shape: the finaliser of SplitMix64, in wrapping arithmetic."""
    if value.device.type == "cpu":
        # numpy has unsigned integers, whose shifts need no mask, and a lower cost per call.
        return torch.from_numpy(_mix(value.numpy().view(np.uint64)).view(np.int64))
    value = value + _GOLDEN
    value = (value ^ _shift_right(value, 30)) * _MIX_1
    value = (value ^ _shift_right(value, 27)) * _MIX_2
    return value ^ _shift_right(value, 31)


def _mix(value: np.ndarray) -> np.ndarray:
    """`hash64` on uint64 arrays. In place after the first sum: new arrays would cost more than the arithmetic."""
    value = np.atleast_1d(value) + _UGOLDEN
    shifted = np.empty_like(value)
    for bits, factor in ((_U30, _UMIX_1), (_U27, _UMIX_2)):
        np.right_shift(value, bits, out=shifted)
        np.bitwise_xor(value, shifted, out=value)
        np.multiply(value, factor, out=value)
    np.right_shift(value, _U31, out=shifted)
    return np.bitwise_xor(value, shifted, out=value)


def derive_seeds(seeds: Tensor, number: Tensor | int) -> Tensor:
    """Derive (B,) int64 seeds from seeds (B,) and a number: the seed of episode `number` of each row.

    number: (B,) int64, or one int for all rows.
    """
    return hash64(
        hash64(seeds) ^ (number * _PLACE if isinstance(number, Tensor) else _wrap(number))
    )


def _wrap(number: int) -> int:
    return _signed((number * (_PLACE & _MASK)) & _MASK)


_AHEAD_ELEMENTS, _AHEAD_DRAWS = 1 << 16, 64
"""Largest number of elements, and of draws, to compute ahead. In small batches a call costs more than its numbers."""
_FEW_ELEMENTS = 256
"""Number of elements up to which a draw costs the same. New streams compute as many ahead at their first draw."""
_NOTHING_AHEAD = (0, 0, torch.empty(0))


class CounterRNG:
    """Random number generator for B batch rows, one independent stream per row.

    All methods that draw advance every stream by one draw. Two generators with equal `seeds` and `draws` return equal
    numbers.

    seeds: (B,) int64, one seed per row.
    draws: (B,) int64, number of draws so far per row; None: 0.
    Raises ValueError if the two differ in shape.
    """

    def __init__(self, seeds: Tensor, draws: Tensor | None = None) -> None:
        self.seeds = seeds.to(torch.int64)
        self._base = torch.zeros_like(self.seeds) if draws is None else draws.to(torch.int64)
        if self.seeds.ndim != 1 or self.seeds.shape != self._base.shape:
            raise ValueError(
                f"seeds have the shape {tuple(self.seeds.shape)} and draws {tuple(self._base.shape)}: expected "
                "one shape (B,) for both"
            )
        # `hash64(seeds)`, computed at the first draw: streams that are merged before they draw never need it.
        self._hashed: Tensor | None = None
        # All rows draw together, so one counter is enough. No tensor of a generator is changed in place.
        self._drawn = 0
        # (distribution, elements per row, dtype) -> (first draw, end, (N, B, elements)): draws computed ahead, shared
        # with clones.
        self._ahead: dict[tuple[str, int, torch.dtype], tuple[int, int, Tensor]] = {}

    @classmethod
    def from_seed(cls, seed: int, rows: int, *, device: torch.device | str = "cpu") -> CounterRNG:
        """Create `rows` streams; row i has the seed `seed` + i."""
        return cls(torch.arange(rows, dtype=torch.int64, device=device) + seed)

    def __len__(self) -> int:
        return self.seeds.shape[0]

    @property
    def draws(self) -> Tensor:
        """Number of draws so far per row, (B,) int64."""
        return self._base + self._drawn

    def clone(self) -> CounterRNG:
        """Copy the streams at their current position. The copy returns the same numbers."""
        other = object.__new__(CounterRNG)
        other.seeds, other._base, other._drawn = self.seeds, self._base, self._drawn
        other._hashed, other._ahead = self._hashed, self._ahead
        return other

    def select(self, rows: Tensor) -> CounterRNG:
        """Select streams by index (N,); indices may repeat."""
        return CounterRNG(self.seeds[rows], self.draws[rows])

    def merge(self, mask: Tensor, other: CounterRNG) -> CounterRNG:
        """Take the streams of `other` where `mask` (B,) bool is True, and these streams elsewhere."""
        return CounterRNG(
            torch.where(mask, other.seeds, self.seeds), torch.where(mask, other.draws, self.draws)
        )

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw (B, *shape) numbers uniform in (0, 1): 23 random bits in float32, 53 in float64."""
        return self._next(shape, "uniform", dtype)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw (B, *shape) standard normal numbers; in float32 no number exceeds 5.8 in size."""
        return self._next(shape, "normal", dtype)

    def _next(self, shape: tuple[int, ...], distribution: str, dtype: torch.dtype) -> Tensor:
        """Next draw of a distribution. Repeated draws of the same kind are computed ahead."""
        count = shape[0] if len(shape) == 1 else math.prod(shape)
        key, drawn = (distribution, count, dtype), self._drawn
        first, end, computed = self._ahead.get(key, _NOTHING_AHEAD)
        if not first <= drawn < end:
            # Twice as many as last time if all of those were used, but at least those that cost no more than one.
            fits = min(_AHEAD_DRAWS, _AHEAD_ELEMENTS // max(1, len(self) * count))
            ahead = 2 * (end - first) if drawn == end else 1
            ahead = max(ahead, _FEW_ELEMENTS // max(1, len(self) * count))
            end = drawn + max(1, min(ahead, fits))
            make = self._normals if distribution == "normal" else self._uniforms
            first, computed = drawn, make(count, end - drawn, dtype)
            self._ahead[key] = (first, end, computed)
        self._drawn = drawn + 1
        # The draws computed ahead are shared, so the caller gets a copy.
        values = computed[drawn - first].clone()
        return values if len(shape) == 1 else values.reshape(len(self), *shape)

    def categorical(self, probabilities: Tensor) -> Tensor:
        """Draw one class from each distribution (B, *G, C) of probabilities; returns (B, *G) int64 in [0, C).

        The groups *G of a row are independent. Probabilities need not sum to 1.
        """
        cumulative = probabilities.cumsum(-1)
        fraction = self.uniform(*probabilities.shape[1:-1], dtype=probabilities.dtype)
        threshold = fraction[..., None] * cumulative[..., -1:]
        return (cumulative < threshold).sum(-1).clamp(max=probabilities.shape[-1] - 1)

    def integers(self, high: int) -> Tensor:
        """Draw (B,) int64 uniform in [0, high)."""
        fraction = self.uniform(1, dtype=torch.float64).squeeze(-1)
        return (fraction * high).to(torch.int64).clamp(max=high - 1)

    def _bits(self, count: int, draws: int) -> Tensor:
        """Random bits of the next draws, (draws, B, count) int64."""
        if self._hashed is None:
            self._hashed = hash64(self.seeds)
        ahead = torch.arange(self._drawn, self._drawn + draws, device=self.seeds.device)
        places = (self._base + ahead[:, None]) * _PLACE
        key = hash64(places.bitwise_xor_(self._hashed))
        elements = torch.arange(count, dtype=torch.int64, device=key.device) * _GOLDEN
        return hash64(key[..., None] + elements)

    def _uniforms(self, count: int, draws: int, dtype: torch.dtype) -> Tensor:
        """Uniform numbers in (0, 1), (draws, B, count)."""
        width = 53 if dtype == torch.float64 else 24
        bits = _shift_right(self._bits(count, draws), 64 - width)
        if width == 53:
            return (bits.to(dtype) + 0.5) * 2.0**-53
        # float32 cannot hold k + 0.5 for a 24-bit k: the odd 24-bit integers are the midpoints of a 23-bit grid.
        return (bits | 1).to(dtype) * 2.0**-24

    def _normals(self, count: int, draws: int, dtype: torch.dtype) -> Tensor:
        """Standard normal numbers (draws, B, count): two from each hash by the Box-Muller transform."""
        half = -(-count // 2)
        bits = self._bits(half, draws)
        angle = (bits & 0xFFFFFF).to(dtype).mul_(2.0 * math.pi * 2.0**-24)
        radius = (bits.bitwise_right_shift_(40).bitwise_and_(0xFFFFFF) | 1).to(dtype)
        radius = radius.mul_(2.0**-24).log_().mul_(-2.0).sqrt_()
        return torch.cat([radius * angle.cos(), radius.mul_(angle.sin_())], -1)[..., :count]
