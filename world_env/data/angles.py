"""Angles that wrap: columns that jump by one period, for example from pi to -pi.

A model that predicts changes would put a step across the jump anywhere in between. Such columns are encoded as cosine
and sine (`WorldSpec.angles`). Clocks, phases and positions in a periodic world wrap in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from gymnasium import spaces

from world_env.data.statistics import is_vector
from world_env.spaces import observation_spaces
from world_env.spec import Angle, WorldSpec

_FULL_TURNS = (2.0 * math.pi, 360.0)
"""Periods of angles in radians and degrees. Columns with such a jump are angles, whatever part they cover."""
_MIN_JUMPS, _MIN_JUMPS_UNKNOWN = 5, 10
"""Jumps that suffice for a known or declared period, and for a period that is estimated from the jumps."""
_MIN_SUSPECT_JUMPS = 3
"""Jumps from which a column is suspected to be an angle."""
_MIN_VALUES, _MIN_HEADINGS = 8, 3
"""Different values that a column has at least, and one with the period of an angle: flags jump as well."""
_MAX_STEP = 0.25 + 1e-5
"""Largest change in periods that counts as a step; between it and its complement to a period a change is ambiguous."""
_MIN_CONTINUOUS = 0.9
"""Share of the jumps that are a usual step across the end of the period, and of the jumps per ambiguous change."""
_USUAL_STEP, _STEPS_ACROSS = 0.99, 3.0
"""Quantile of the other changes, and its multiple, up to which a step across the end is usual."""
_OUTSIDE = 0.05
"""Share of the values that may lie outside of the period, and by which share of it: noise added after wrapping."""
_BINS, _FINE_BINS = 8, 64
_PILE, _PILE_ROWS = 4.0, 20
"""Ratio and excess of the rows in an outermost bin over its neighbour: values that rest at both ends are limits."""
_SMOOTH = 0.05
"""Difference of a step across the end of the period from the steps around it, in periods, that is continuous as well:
an angle may turn fast."""
_MAX_GAP = 0.7
"""Largest part of the period without values, in steps across the end."""
_SPREAD = 0.02
"""Largest median deviation of an estimated period, as a share of it."""
_ESTIMATED = 4.0
"""Factor of the mismatch of an estimated period in the choice between it and known ones."""
_SAMPLE = 100_000
"""Values among which different ones are counted."""
_CHUNK = 1 << 20
"""Values per part of a pass over an episode, which bounds its memory."""


class ObservedEpisode(Protocol):
    """An episode, checked or not."""

    def observation_columns(self) -> dict[str, np.ndarray]:
        """Observations by key, (T+1, ...) each."""


@dataclass(frozen=True)
class WrappedColumn:
    """A column that jumps as an angle does.

    key: of the observation. size: columns of the key. angle: column, and the range of its values. jumps: their number.
    certain: whether the evidence suffices to carry it as an angle.
    """

    key: str
    size: int
    angle: Angle
    jumps: int
    certain: bool


def find_angles(
    episodes: Iterable[ObservedEpisode], spec: WorldSpec
) -> dict[str, tuple[Angle, ...]]:
    """Find the angles of the Box keys of the observation, for `WorldSpec.angles`. Keys without angles are left out."""
    found: dict[str, tuple[Angle, ...]] = {}
    for each in wrapped_columns(episodes, spec):
        if each.certain:
            found[each.key] = (*found.get(each.key, ()), each.angle)
    return found


def merged_angles(
    first: Mapping[str, tuple[Angle, ...]], second: Mapping[str, tuple[Angle, ...]]
) -> dict[str, tuple[Angle, ...]]:
    """Return the angles of both; a column of both is that of the first."""
    merged: dict[str, tuple[Angle, ...]] = {}
    for key in sorted({*first, *second}):
        columns = {angle.column: angle for angle in (*second.get(key, ()), *first.get(key, ()))}
        merged[key] = tuple(columns[column] for column in sorted(columns))
    return merged


def wrapped_columns(episodes: Iterable[ObservedEpisode], spec: WorldSpec) -> list[WrappedColumn]:
    """Find columns of Box keys that jump by one period and are continuous otherwise, by key and column.

    Only changes within an episode count. Periods are 2 pi, 360, the width of the declared bounds, 1, and an estimate
    from the jumps.
    """
    observed = [episode.observation_columns() for episode in episodes]
    # Differences of extreme values overflow, and infinite ones are no angle.
    with np.errstate(over="ignore", invalid="ignore"):
        return _wrapped_columns(observed, spec)


def _wrapped_columns(
    observed: Sequence[Mapping[str, np.ndarray]], spec: WorldSpec
) -> list[WrappedColumn]:
    found = []
    for key, space in observation_spaces(spec.observation_space).items():
        if not (isinstance(space, spaces.Box) and is_vector(space)) or space.dtype == bool:
            continue
        size = math.prod(space.shape)
        parts = [columns[key].reshape(len(columns[key]), -1) for columns in observed]
        for column in _jumping(parts, size):
            series = _Series.of([part[:, column] for part in parts])
            low, high = (
                float(bound.reshape(-1)[column].astype(np.float64))
                for bound in (space.low, space.high)
            )
            judged = _judge(series, low, high, is_integer=space.dtype.kind != "f")
            if judged is not None:
                wrap, certain = judged
                angle = Angle(column, wrap.low, wrap.period)
                found.append(WrappedColumn(key, size, angle, wrap.jumps, certain))
    return found


def _jumping(parts: Sequence[np.ndarray], size: int) -> list[int]:
    """Columns with some changes within an episode of more than half of their range."""
    if not parts or not size:
        return []
    low = np.min([part.min(0) for part in parts], axis=0).astype(np.float64)
    high = np.max([part.max(0) for part in parts], axis=0).astype(np.float64)
    jumps, rows = np.zeros(size, np.int64), max(1, _CHUNK // size)
    for part in parts:
        for start in range(0, len(part) - 1, rows):
            change = np.diff(part[start : start + rows + 1].astype(np.float64), axis=0)
            jumps += (np.abs(change) > (high - low) / 2.0).sum(0)
    return np.flatnonzero((jumps >= _MIN_SUSPECT_JUMPS) & (high > low)).tolist()


@dataclass(frozen=True)
class _Series:
    """One column. values: (M,). change: (N,) within the episodes.

    before, after: (N,) the changes before and after each; NaN at the ends of an episode.
    """

    values: np.ndarray
    change: np.ndarray
    before: np.ndarray
    after: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[np.ndarray]) -> _Series:
        parts = [part.astype(np.float64) for part in parts]
        changes = [np.diff(part) for part in parts if len(part) > 1]
        none = [np.nan]
        before = [np.concatenate([none, change[:-1]]) for change in changes]
        after = [np.concatenate([change[1:], none]) for change in changes]
        return cls(*(np.concatenate(each) for each in (parts, changes, before, after)))


@dataclass(frozen=True)
class _Wrap:
    """A column seen with one period.

    step: usual size of a change. across: (jumps,) wrapped changes at the jumps. around: (jumps,) mean of the wrapped
    changes before and after them. ambiguous: number of changes that are neither a step nor a jump. share: share of the
    period that the values cover, from the smallest to the largest.
    """

    low: float
    period: float
    step: float
    across: np.ndarray
    around: np.ndarray
    ambiguous: int
    share: float

    @property
    def jumps(self) -> int:
        return len(self.across)

    @property
    def mismatch(self) -> float:
        """Typical difference of a step across the end of the period from the steps around it."""
        return float(np.median(np.abs(self.across - self.around)))

    @property
    def moves(self) -> bool:
        """Whether the value moves at the jumps. A switch between two limits rests at both."""
        return bool(np.median(np.abs(self.across)) > 0.0 and self.step > 0.0)

    def is_continuous(self) -> bool:
        """Whether nearly all jumps are steps across the end: of usual size, or like the steps around them."""
        usual = np.abs(self.across) <= min(_STEPS_ACROSS * self.step, _MAX_STEP * self.period)
        clear = self.ambiguous <= (1.0 - _MIN_CONTINUOUS) * self.jumps
        smooth = np.abs(self.across - self.around) <= _SMOOTH * self.period
        share = max(usual.mean() * clear, smooth.mean())
        return bool(share >= _MIN_CONTINUOUS) and self.moves

    def is_nearly_continuous(self) -> bool:
        """Whether most jumps are steps across the end of the period."""
        small = np.median(np.abs(self.across)) <= _MAX_STEP * self.period / 1.5
        return bool(small or self.mismatch <= _SMOOTH * self.period) and self.moves


def _wrap(series: _Series, low: float | None, period: float) -> _Wrap | None:
    """See a column with a period; None if it has no jumps, or if values lie outside."""
    if low is None:
        return None
    jumps = np.abs(series.change) > period / 2.0
    if jumps.sum() < _MIN_SUSPECT_JUMPS or jumps.all():
        return None
    calm = np.abs(series.change[~jumps])
    wrapped, before, after = (
        change - period * np.round(change / period)
        for change in (series.change, series.before[jumps], series.after[jumps])
    )
    around = np.stack([before, after])
    known = np.isfinite(around)
    around = np.where(known, around, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    return _Wrap(
        low=low,
        period=period,
        step=float(np.quantile(calm, _USUAL_STEP)),
        across=wrapped[jumps],
        around=around,
        ambiguous=int((np.abs(wrapped) > _MAX_STEP * period).sum()),
        share=float(np.ptp(series.values) / period),
    )


def _judge(
    series: _Series, low: float, high: float, *, is_integer: bool
) -> tuple[_Wrap, bool] | None:
    """The best period of a column and whether it is certain; None if the column does not wrap.

    low, high: declared bounds.
    """
    values = series.values
    different = len(np.unique(_sample(values)))
    certain: list[tuple[_Wrap, bool]] = []
    suspected: list[tuple[_Wrap, bool]] = []
    for period, known in _periods(series, low, high, is_integer):
        wrap = _wrap(series, _low_of(values, period, low, is_integer), period)
        if wrap is None:
            continue
        full_turn = known and any(math.isclose(period, each, rel_tol=1e-6) for each in _FULL_TURNS)
        # A part of a turn suffices where the period itself is that of an angle.
        whole = (
            different >= (_MIN_HEADINGS if full_turn else _MIN_VALUES)
            and _reaches_ends(values, wrap)
            and (full_turn or (_covers(values, wrap) and not _piles(values, wrap, is_integer)))
        )
        enough = wrap.jumps >= (_MIN_JUMPS if known else _MIN_JUMPS_UNKNOWN)
        if whole and enough and wrap.is_continuous():
            certain.append((wrap, known))
        elif whole and wrap.share > 1.0 - 2.0 * _OUTSIDE:
            if wrap.is_continuous() or (full_turn and wrap.is_nearly_continuous()):
                suspected.append((wrap, known))
    for wraps, is_certain in ((certain, True), (suspected, False)):
        if wraps:
            # Known periods are first, and noise favours an estimate from the same jumps.
            penalized = [wrap.mismatch * (1.0 if known else _ESTIMATED) for wrap, known in wraps]
            best = 1.1 * min(penalized) + 1e-9 * wraps[0][0].period
            return next(
                w for (w, _), each in zip(wraps, penalized, strict=True) if each <= best
            ), is_certain
    return None


def _periods(
    series: _Series, low: float, high: float, is_integer: bool
) -> Iterator[tuple[float, bool]]:
    """Possible periods, and whether they are known: those of angles, of the declared bounds, 1, and an estimate."""
    seen = list(_FULL_TURNS)
    yield from ((period, True) for period in seen)
    width = high - low
    declared = [width + 1.0, width] if is_integer else [width]
    for period in (*declared, *([] if is_integer else [1.0])):
        if math.isfinite(period) and period > 0.0 and not _among(period, seen):
            seen.append(period)
            yield period, True
    estimated = _estimated(series, is_integer)
    if estimated is not None and not _among(estimated, seen):
        yield estimated, False


def _among(period: float, others: Iterable[float]) -> bool:
    return any(math.isclose(period, other, rel_tol=1e-6) for other in others)


def _estimated(series: _Series, is_integer: bool) -> float | None:
    """Period from the jumps: their size and the steps around them. None if the jumps differ."""
    reach = float(np.ptp(series.values))
    jumps = np.abs(series.change) > reach / 2.0
    before, after = series.before[jumps], series.after[jumps]
    around = np.stack([before, after])
    around[np.abs(around) > reach / 2.0] = np.nan
    known = np.isfinite(around).any(0)
    if known.sum() < _MIN_JUMPS_UNKNOWN:
        return None
    step = np.nanmean(around[:, known], axis=0)
    change = series.change[jumps][known]
    periods = np.abs(change) - step * np.sign(change)
    period = float(np.median(periods))
    if period <= 0.0 or float(np.median(np.abs(periods - period))) > _SPREAD * period:
        return None
    if is_integer:
        return float(round(period))
    # The values fit into the period, up to noise that is added after wrapping.
    return max(period, reach) if reach <= (1.0 + _OUTSIDE) * period else None


def _low_of(values: np.ndarray, period: float, declared: float, is_integer: bool) -> float | None:
    """Lower end of the period that the values lie in; None if they do not fit into one."""
    low, high = float(values.min()), float(values.max())
    if is_integer and high - low + 1.0 > period + 1.0:
        return None
    options = [-period / 2.0, 0.0, *([declared] if math.isfinite(declared) else [])]
    for option in [*options, (low + high - period) / 2.0]:
        if low >= option - 1e-6 * period and high <= option + period * (1.0 + 1e-6):
            if not is_integer:
                return option
            # The last integer of [-180, 180] or (-180, 180] is the first one of the next turn.
            first = math.ceil(option)
            return float(first if high < first + period or low <= first else first + 1)
    slack = _OUTSIDE * period
    for option in options if not is_integer else []:
        outside = (values < option) | (values > option + period)
        near = low >= option - slack and high <= option + period + slack
        if near and outside.mean() <= _OUTSIDE:
            return option
    return None


def _sample(values: np.ndarray) -> np.ndarray:
    return values[:: max(1, len(values) // _SAMPLE)]


def _reaches_ends(values: np.ndarray, wrap: _Wrap) -> bool:
    """Whether the values come closer to the ends than a step, or are all multiples of one.

    A speed that switches from 3 to -3 does not, although it nearly has the period 2 pi.
    """
    gap = (1.0 - wrap.share) * wrap.period
    spacing = np.diff(np.unique(np.round(_sample(values) / wrap.period, 5))).min() * wrap.period
    step = float(np.median(np.abs(wrap.across)))
    return gap <= max(_MAX_GAP * step, spacing * 1.01)


def _covers(values: np.ndarray, wrap: _Wrap) -> bool:
    """Whether the values cover the whole period."""
    bins = min(_BINS, max(1, round(wrap.period)) if wrap.period > 1.0 else _BINS)
    place = ((values - wrap.low) / wrap.period % 1.0 * bins).astype(np.int64)
    return len(np.unique(place.clip(0, bins - 1))) == bins


def _piles(values: np.ndarray, wrap: _Wrap, is_integer: bool) -> bool:
    """Whether the values pile up at both ends of the period, as at limits."""
    bins = _FINE_BINS
    if is_integer:
        bins = min(bins, max(4, round(wrap.period)))
    place = ((values - wrap.low) / wrap.period * bins).astype(np.int64).clip(0, bins - 1)
    count = np.bincount(place, minlength=bins)
    piled = [count[end] > _PILE * count[beside] + _PILE_ROWS for end, beside in ((0, 1), (-1, -2))]
    return all(piled)
