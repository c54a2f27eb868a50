"""Loops compiled by numba at first use and cached on disk. Optional: `pip install "world-env[fast]"`.

For large batches: LayerNorm and SiLU in one pass. For small batches: the whole step of an ensemble as one call, because
there the calls cost more than the arithmetic. The equations are those of `layers.ensemble_mlp`, `layers.normalizer` and
`ensemble.model`, on numpy arrays; tests compare the two. Letters as in `world_env.batch`.

All inner functions are inlined. Otherwise the process that compiles them and the processes that load them from disk
would link them differently: with the fast-math flags below they would round differently, and equal seeds would not give
equal results.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

# Compiled as a constant. The cache on disk follows changes of this file only: after a change of the margin, clear it.
from world_env.data_range import MARGINS_PER_WIDENED_RANGE

FAST = {"reassoc", "contract", "arcp", "afn", "nsz"}
"""Fast-math flags that allow vector instructions. "nnan" is not among them: the simulator must detect NaN."""
EPSILON = np.float32(1e-5)
_MIN_SQUARED_LENGTH = np.float32(1e-6)
_TANH_LIMIT = np.float32(9.0)
_NUMERATOR = tuple(
    np.float32(value)
    for value in (
        *(4.89352455891786e-03, 6.37261928875436e-04, 1.48572235717979e-05, 5.12229709037114e-08),
        *(-8.60467152213735e-11, 2.00018790482477e-13, -2.76076847742355e-16),
    )
)
_DENOMINATOR = tuple(
    np.float32(value)
    for value in (
        4.89352518554385e-03,
        2.26843463243900e-03,
        1.18534705686654e-04,
        1.19825839466702e-06,
    )
)
"""Coefficients of tanh(x) = x numerator(x^2) / denominator(x^2) for |x| <= 9, exact to float32: the approximation of
Eigen and XLA."""


class Network(NamedTuple):
    """Weights of a `MemberMLP` as float32 arrays; per layer (E, inputs, outputs) and (E, 1, outputs)."""

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    gains: tuple[np.ndarray, ...]
    shifts: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, network: Any) -> Network:
        """Weights of a `MemberMLP`, without a copy."""
        parts = (network.weights, network.biases, network.gains, network.shifts)
        return cls(*(tuple(value.detach().numpy() for value in part) for part in parts))


class KernelScales(NamedTuple):
    """Buffers of a `Normalizer` as arrays, and the other constants of a step; see `EnsembleWorldModel`."""

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
    def of(cls, normalizer: Any, **others: Any) -> KernelScales:
        """Buffers of a `Normalizer`, without a copy. others: the fields that are not buffers."""
        buffers = [name for name in cls._fields if name not in others]
        return cls(**{name: getattr(normalizer, name).numpy() for name in buffers}, **others)


@njit(fastmath=FAST, error_model="numpy", forceinline=True)
def _layer(inputs: Any, weight: Any, bias: Any, out: Any) -> None:
    """Write inputs @ weight + bias to `out`. Four rows of the weight per pass: `out` is read a quarter as often."""
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


@njit(fastmath=FAST, error_model="numpy", forceinline=True)
def sigmoid(value: Any) -> Any:
    """(1 + tanh(x / 2)) / 2. An exponential would need a call per value; this is arithmetic only."""
    x = np.float32(0.5) * value
    x = _TANH_LIMIT if x > _TANH_LIMIT else x
    x = -_TANH_LIMIT if x < -_TANH_LIMIT else x
    y = x * x
    numerator = _NUMERATOR[6]
    numerator = numerator * y + _NUMERATOR[5]
    numerator = numerator * y + _NUMERATOR[4]
    numerator = numerator * y + _NUMERATOR[3]
    numerator = numerator * y + _NUMERATOR[2]
    numerator = numerator * y + _NUMERATOR[1]
    numerator = numerator * y + _NUMERATOR[0]
    denominator = _DENOMINATOR[3]
    denominator = denominator * y + _DENOMINATOR[2]
    denominator = denominator * y + _DENOMINATOR[1]
    denominator = denominator * y + _DENOMINATOR[0]
    return np.float32(0.5) * (np.float32(1.0) + x * numerator / denominator)


@njit(fastmath=FAST, error_model="numpy", forceinline=True)
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
    factor = np.float32(1.0) / np.sqrt(variance / np.float32(width) + EPSILON)
    for j in range(width):
        value = hidden[j] * factor * gain[j] + shift[j]
        hidden[j] = value * sigmoid(value)


@njit(fastmath=FAST, error_model="numpy", cache=True)
def activate_rows(hidden: Any, gain: Any, shift: Any) -> None:
    """LayerNorm and SiLU of (B, W) float32, in place. gain, shift: (W,)."""
    for row in range(len(hidden)):
        _activate(hidden[row], gain, shift)


@njit(fastmath=FAST, error_model="numpy", forceinline=True)
def _run(network: Any, member: int, inputs: Any) -> Any:
    """Map one row (inputs,) through one member to (outputs,)."""
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
    """Clip a value; NaN stays NaN."""
    if value < low:
        return low
    return high if value > high else value


@njit(fastmath=FAST, error_model="numpy", forceinline=True)
def _full_disagreement(dynamics: Any, inputs: Any, size: int) -> float:
    """Variance over all members of the mean change, averaged over the dimensions."""
    members = dynamics.weights[0].shape[0]
    means = np.empty((members, size), np.float32)
    for member in range(members):
        means[member] = _run(dynamics, member, inputs)[:size]
    total = 0.0
    for i in range(size):
        mean = means[:, i].mean()
        for member in range(members):
            total += (means[member, i] - mean) ** 2
    return total / (members - 1) / size


@njit(fastmath=FAST, error_model="numpy", forceinline=True)
def _update_disagreement(
    dynamics: Any,
    inputs: Any,
    own: Any,
    member: int,
    average: float,
    looks: int,
    full: bool,
    every: int,
) -> float:
    """Disagreement of a row after this step: `EnsembleWorldModel._update_disagreement`."""
    size, members = len(own) // 2, dynamics.weights[0].shape[0]
    if full or average < 0.0:
        return _full_disagreement(dynamics, inputs, size)
    if looks % every != 0:
        return average
    partner = (member + 1 + looks // every % (members - 1)) % members
    other = _run(dynamics, partner, inputs)
    squared = 0.0
    for i in range(size):
        squared += (own[i] - other[i]) ** 2
    return average + (0.5 * squared / size - average) / (members - 1)


@njit(fastmath=FAST, error_model="numpy", forceinline=True)
def _hold_together(vector: Any, together: Any) -> None:
    """Rescale the unit vectors of one row (D,) to length 1, in place. together: (D, D)."""
    size = len(vector)
    factors = np.ones(size, np.float32)
    for i in range(size):
        square = np.float32(0.0)
        if together[i, i] > 0.0:
            for j in range(size):
                square += together[i, j] * vector[j] * vector[j]
        if square > _MIN_SQUARED_LENGTH:
            factors[i] = np.float32(1.0) / np.sqrt(square)
    for i in range(size):
        vector[i] *= factors[i]


@njit(fastmath=FAST, error_model="numpy", cache=True)
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
        the temperature. wanted: uncertainty, 0: none, 1: the cheap estimate, 2: "full". every: `partner_every`.
    Returns (next vector (B, D), (3, B) of reward, terminal reward and termination probability, (2, B) of disagreement
        and uncertainty).
    """
    rows, size = vector.shape
    actions = action.shape[1]
    arrived = np.empty((rows, size), np.float32)
    outcome, estimate = np.empty((3, rows), np.float32), np.empty((2, rows), np.float32)
    inputs = np.empty(size + actions, np.float32)
    features = np.empty(3 * size + actions, np.float32)
    for row in range(rows):
        for i in range(size):
            inputs[i] = _clip((vector[row, i] - scales.center[i]) / scales.scale[i], -10.0, 10.0)
        inputs[size:] = action[row]
        features[: size + actions] = inputs
        predicted = _run(dynamics, member[row], inputs)
        outside = np.float32(0.0)
        for i in range(size):
            unit = scales.change_scale[i]
            gate = 1.0 / (1.0 + math.exp(scales.log_std_max - predicted[size + i]))
            change = predicted[i] + (gate * scales.std_high + scales.std_low) * noise[row, i]
            base = vector[row, i] if scales.carried[i] > 0.0 else scales.center[i]
            moved = base + change * unit
            margin = (scales.high[i] - scales.low[i]) / MARGINS_PER_WIDENED_RANGE
            excess = max(scales.low[i] + margin - moved, moved - scales.high[i] + margin) / unit
            outside = max(outside, np.float32(excess))
            arrived[row, i] = _clip(moved, scales.low[i], scales.high[i])
        if len(scales.together) > 0:
            _hold_together(arrived[row], scales.together)
        for i in range(size):
            unit, moved = scales.change_scale[i], arrived[row, i]
            normalized = _clip((moved - scales.center[i]) / scales.scale[i], -10.0, 10.0)
            features[size + actions + i] = normalized
            features[2 * size + actions + i] = _clip((moved - vector[row, i]) / unit, -10.0, 10.0)
        predicted_outcome = _run(heads, member[row], features)
        for kind in range(2):
            value = predicted_outcome[kind] * scales.reward[kind, 1] + scales.reward[kind, 0]
            outcome[kind, row] = _clip(value, scales.reward_range[0], scales.reward_range[1])
        outcome[2, row] = 1.0 / (1.0 + math.exp(scales.log_terminal_weight - predicted_outcome[2]))
        estimate[0, row] = disagreement[row]
        if wanted > 0:
            estimate[0, row] = _update_disagreement(
                dynamics,
                inputs,
                predicted,
                member[row],
                disagreement[row],
                looks[row],
                wanted == 2,
                every,
            )
            estimate[1, row] = math.sqrt(estimate[0, row]) + outside
    return arrived, outcome, estimate
