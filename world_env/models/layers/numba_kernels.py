"""Loops compiled by numba at first use and cached on disk: optional, `pip install "world-env[fast]"`.

Between the products of many rows, LayerNorm and SiLU in one pass; and the whole step of a few rows as one call, because
calls cost more than numbers there. The equations are those of `networks` and `ensemble` (tests hold them together), on
numpy arrays. Letters as in `world_env.types`.

What loops call is always inlined. As a function of its own it would be linked in one way by the process that
compiles it and in another by those that find it on disk: with the liberties below they round otherwise, and the same
seeds would not give the same policy.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

_FAST = {"reassoc", "contract", "arcp", "afn", "nsz"}
"""Liberties that let loops run in vector registers. Not taken: that there are no NaNs; simulators look for them."""
_EPSILON = np.float32(1e-5)
_SHORT = np.float32(1e-6)
_LIMIT = np.float32(9.0)
_TOP = tuple(
    np.float32(value)
    for value in (
        *(4.89352455891786e-03, 6.37261928875436e-04, 1.48572235717979e-05, 5.12229709037114e-08),
        *(-8.60467152213735e-11, 2.00018790482477e-13, -2.76076847742355e-16),
    )
)
_BOTTOM = tuple(
    np.float32(value)
    for value in (
        4.89352518554385e-03,
        2.26843463243900e-03,
        1.18534705686654e-04,
        1.19825839466702e-06,
    )
)
"""tanh(x) = x top(x^2) / bottom(x^2) within 9 of 0, to float32 precision: the approximation of Eigen and XLA."""


class Network(NamedTuple):
    """A `MemberMLP` as arrays: one (E, in, out), (E, 1, out), ... a layer, float32."""

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    gains: tuple[np.ndarray, ...]
    shifts: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, network: Any) -> Network:
        """The numbers of a `MemberMLP`, shared with it."""
        parts = (network.weights, network.biases, network.gains, network.shifts)
        return cls(*(tuple(value.detach().numpy() for value in part) for part in parts))


class Scales(NamedTuple):
    """A `Normalizer` as arrays, and what a step needs besides; see `EnsembleWorldModel`."""

    center: np.ndarray
    scale: np.ndarray
    change_scale: np.ndarray
    low: np.ndarray
    high: np.ndarray
    carried: np.ndarray
    together: np.ndarray
    reward: np.ndarray
    reward_range: np.ndarray
    std_low: float
    std_high: float
    log_std_max: float
    log_terminal_weight: float

    @classmethod
    def of(cls, normalizer: Any, **others: Any) -> Scales:
        """The buffers of a `Normalizer`, shared with it, and all that is no buffer."""
        buffers = [name for name in cls._fields if name not in others]
        return cls(**{name: getattr(normalizer, name).numpy() for name in buffers}, **others)


@njit(fastmath=_FAST, error_model="numpy", forceinline=True)
def _layer(inputs: Any, weight: Any, bias: Any, out: Any) -> None:
    """Put inputs @ weight + bias into `out`; with four rows of the weight at a time, it is read a quarter as often."""
    count, width = weight.shape
    for j in range(width):
        out[j] = bias[j]
    whole = count // 4 * 4
    for i in range(0, whole, 4):
        a, b, c, d = inputs[i], inputs[i + 1], inputs[i + 2], inputs[i + 3]
        for j in range(width):
            out[j] += (
                a * weight[i, j]
                + b * weight[i + 1, j]
                + c * weight[i + 2, j]
                + d * weight[i + 3, j]
            )
    for i in range(whole, count):
        for j in range(width):
            out[j] += inputs[i] * weight[i, j]


@njit(fastmath=_FAST, error_model="numpy", forceinline=True)
def _activate(hidden: Any, gain: Any, shift: Any) -> None:
    """LayerNorm and SiLU of one row (W,), in place."""
    width = len(hidden)
    mean = np.float32(0.0)
    for j in range(width):
        mean += hidden[j]
    mean /= np.float32(width)
    variance = np.float32(0.0)
    for j in range(width):
        hidden[j] -= mean
        variance += hidden[j] * hidden[j]
    factor = np.float32(1.0) / np.sqrt(variance / np.float32(width) + _EPSILON)
    for j in range(width):
        value = hidden[j] * factor * gain[j] + shift[j]
        # x sigmoid(x) = x (1 + tanh(x / 2)) / 2. An exponential is a call for each number; this is arithmetic alone.
        x = np.float32(0.5) * value
        x = _LIMIT if x > _LIMIT else x
        x = -_LIMIT if x < -_LIMIT else x
        y = x * x
        top = _TOP[6]
        top = top * y + _TOP[5]
        top = top * y + _TOP[4]
        top = top * y + _TOP[3]
        top = top * y + _TOP[2]
        top = top * y + _TOP[1]
        top = top * y + _TOP[0]
        bottom = _BOTTOM[3]
        bottom = bottom * y + _BOTTOM[2]
        bottom = bottom * y + _BOTTOM[1]
        bottom = bottom * y + _BOTTOM[0]
        hidden[j] = np.float32(0.5) * value * (np.float32(1.0) + x * top / bottom)


@njit(fastmath=_FAST, error_model="numpy", cache=True)
def activate_rows(hidden: Any, gain: Any, shift: Any) -> None:
    """LayerNorm and SiLU of (B, W) float32, in place; gain, shift: (W,)."""
    for row in range(len(hidden)):
        _activate(hidden[row], gain, shift)


@njit(fastmath=_FAST, error_model="numpy", forceinline=True)
def _run(network: Any, member: int, inputs: Any) -> Any:
    """One row through one member: (inputs,) to (outputs,)."""
    hidden = inputs
    layers = len(network.gains)
    for i in range(layers):
        out = np.empty(network.weights[i].shape[2], np.float32)
        _layer(hidden, network.weights[i][member], network.biases[i][member, 0], out)
        _activate(out, network.gains[i][member, 0], network.shifts[i][member, 0])
        hidden = out
    out = np.empty(network.weights[layers].shape[2], np.float32)
    _layer(hidden, network.weights[layers][member], network.biases[layers][member, 0], out)
    return out


@njit(forceinline=True)
def _clip(value: float, low: float, high: float) -> float:
    """NaN stays NaN."""
    if value < low:
        return low
    return high if value > high else value


@njit(fastmath=_FAST, error_model="numpy", forceinline=True)
def _all_disagree(dynamics: Any, inputs: Any, size: int) -> float:
    """Variance over all members of the mean change, averaged over the dimensions."""
    members = dynamics.weights[0].shape[0]
    means = np.empty((members, size), np.float32)
    for member in range(members):
        means[member] = _run(dynamics, member, inputs)[:size]
    total = 0.0
    for i in range(size):
        middle = means[:, i].mean()
        for member in range(members):
            total += (means[member, i] - middle) ** 2
    return total / (members - 1) / size


@njit(fastmath=_FAST, error_model="numpy", forceinline=True)
def _look(
    dynamics: Any,
    inputs: Any,
    own: Any,
    member: int,
    known: float,
    looks: int,
    full: bool,
    every: int,
) -> float:
    """A row's disagreement after this step."""
    size, members = len(own) // 2, dynamics.weights[0].shape[0]
    if full or known < 0.0:
        return _all_disagree(dynamics, inputs, size)
    if looks % every != 0:
        return known
    partner = (member + 1 + looks // every % (members - 1)) % members
    other = _run(dynamics, partner, inputs)
    seen = 0.0
    for i in range(size):
        seen += (own[i] - other[i]) ** 2
    return known + (0.5 * seen / size - known) / (members - 1)


@njit(fastmath=_FAST, error_model="numpy", forceinline=True)
def _hold_together(vector: Any, together: Any) -> None:
    """Unit vectors of one row (D,) to length 1 again, in place; together: (D, D)."""
    size = len(vector)
    factors = np.ones(size, np.float32)
    for i in range(size):
        square = np.float32(0.0)
        if together[i, i] > 0.0:
            for j in range(size):
                square += together[i, j] * vector[j] * vector[j]
        if square > _SHORT:
            factors[i] = np.float32(1.0) / np.sqrt(square)
    for i in range(size):
        vector[i] *= factors[i]


@njit(fastmath=_FAST, error_model="numpy", cache=True)
def step_rows(
    dynamics: Any,
    heads: Any,
    scales: Any,
    vector: Any,
    action: Any,
    member: Any,
    disagreement: Any,
    looks: Any,
    noise: Any,
    wanted: int,
    every: int,
) -> Any:
    """One step of B rows.

    vector: (B, D). action: (B, A). member: (B,) int64. disagreement: (B,). looks: (B,) int64. noise: (B, D), scaled by
        the temperature. wanted: 0 no uncertainty, 1 the default, 2 "full". every: `partner_every`.
    Returns arrived (B, D), outcome (3, B) of reward, terminal reward and probability of an end, doubt (2, B) of
        disagreement and uncertainty.
    """
    rows, size = vector.shape
    actions = action.shape[1]
    arrived = np.empty((rows, size), np.float32)
    outcome, doubt = np.empty((3, rows), np.float32), np.empty((2, rows), np.float32)
    inputs = np.empty(size + actions, np.float32)
    seen = np.empty(3 * size + actions, np.float32)
    for row in range(rows):
        for i in range(size):
            inputs[i] = _clip((vector[row, i] - scales.center[i]) / scales.scale[i], -10.0, 10.0)
        inputs[size:] = action[row]
        seen[: size + actions] = inputs
        made = _run(dynamics, member[row], inputs)
        outside = np.float32(0.0)
        for i in range(size):
            unit = scales.change_scale[i]
            gate = 1.0 / (1.0 + math.exp(scales.log_std_max - made[size + i]))
            change = made[i] + (gate * scales.std_high + scales.std_low) * noise[row, i]
            base = vector[row, i] if scales.carried[i] > 0.0 else scales.center[i]
            where = base + change * unit
            margin = (scales.high[i] - scales.low[i]) / 12.0
            over = max(scales.low[i] + margin - where, where - scales.high[i] + margin) / unit
            outside = max(outside, np.float32(over))
            arrived[row, i] = _clip(where, scales.low[i], scales.high[i])
        if len(scales.together) > 0:
            _hold_together(arrived[row], scales.together)
        for i in range(size):
            unit, where = scales.change_scale[i], arrived[row, i]
            near = _clip((where - scales.center[i]) / scales.scale[i], -10.0, 10.0)
            seen[size + actions + i] = near
            seen[2 * size + actions + i] = _clip((where - vector[row, i]) / unit, -10.0, 10.0)
        ends = _run(heads, member[row], seen)
        for kind in range(2):
            value = ends[kind] * scales.reward[kind, 1] + scales.reward[kind, 0]
            outcome[kind, row] = _clip(value, scales.reward_range[0], scales.reward_range[1])
        outcome[2, row] = 1.0 / (1.0 + math.exp(scales.log_terminal_weight - ends[2]))
        doubt[0, row] = disagreement[row]
        if wanted > 0:
            doubt[0, row] = _look(
                dynamics,
                inputs,
                made,
                member[row],
                disagreement[row],
                looks[row],
                wanted == 2,
                every,
            )
            doubt[1, row] = math.sqrt(doubt[0, row]) + outside
    return arrived, outcome, doubt
