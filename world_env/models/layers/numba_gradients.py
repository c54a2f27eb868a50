"""Loops compiled by numba for the steps of an ensemble with constant weights, and for their gradients.

The equations are those of `layers.ensemble_mlp`, `layers.normalizer` and `ensemble.model`; tests compare the gradients
with those of autograd. As in `layers.numba_kernels`, whose functions are compiled into these: after a change there,
clear the cache on disk.

Rows are padded by member, P = E * N of them: `row` (P,) is the batch row of each, `place` (B,) the padded row of each
batch row. Letters: D observation dimensions, A action dimensions, W units of a layer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from world_env.models.layers.numba_kernels import EPSILON, FAST, sigmoid

_CLIP = np.float32(10.0)
_ONE = np.float32(1.0)


@njit(fastmath=FAST, error_model="numpy", cache=True)
def activate(product: Any, bias: Any, gain: Any, shift: Any, factor: Any, hidden: Any) -> None:
    """Bias, LayerNorm and SiLU of products (E, N, W), written to `hidden`.

    `product` becomes the normalised rows, `factor` (E, N) the inverse of their standard deviations, for the gradient.
    """
    members, rows, width = product.shape
    for member in range(members):
        for index in range(rows):
            values, out = product[member, index], hidden[member, index]
            mean = np.float32(0.0)
            for j in range(width):
                values[j] += bias[member, 0, j]
                mean += values[j]
            mean /= np.float32(width)
            variance = np.float32(0.0)
            for j in range(width):
                values[j] -= mean
                variance += values[j] * values[j]
            scale = _ONE / np.sqrt(variance / np.float32(width) + EPSILON)
            factor[member, index] = scale
            for j in range(width):
                values[j] *= scale
                value = values[j] * gain[member, 0, j] + shift[member, 0, j]
                out[j] = value * sigmoid(value)


@njit(fastmath=FAST, error_model="numpy", cache=True)
def activate_gradient(slope: Any, normed: Any, factor: Any, gain: Any, shift: Any) -> None:
    """Gradient of `activate` with respect to the products, in place of that of its results (E, N, W)."""
    members, rows, width = slope.shape
    for member in range(members):
        for index in range(rows):
            values, row = slope[member, index], normed[member, index]
            total, along = np.float32(0.0), np.float32(0.0)
            for j in range(width):
                value = row[j] * gain[member, 0, j] + shift[member, 0, j]
                share = sigmoid(value)
                values[j] *= share * (_ONE + value * (_ONE - share)) * gain[member, 0, j]
                total += values[j]
                along += values[j] * row[j]
            total /= np.float32(width)
            along /= np.float32(width)
            for j in range(width):
                values[j] = factor[member, index] * (values[j] - total - row[j] * along)


@njit(fastmath=FAST, error_model="numpy", cache=True)
def activate_gradients(
    slope: Any, normed: Any, factor: Any, gain: Any, shift: Any, product: Any, of_bias: Any, of_gain: Any,
    of_shift: Any,
) -> None:  # fmt: skip
    """Gradients of `activate`: of the products, written to `product` (E, N, W), and of bias, gain and shift (E, 1, W).

    slope: gradient of the results. The last three are zero before.
    """
    members, rows, width = slope.shape
    for member in range(members):
        for index in range(rows):
            given, row, values = slope[member, index], normed[member, index], product[member, index]
            total, along = np.float32(0.0), np.float32(0.0)
            for j in range(width):
                value = row[j] * gain[member, 0, j] + shift[member, 0, j]
                share = sigmoid(value)
                one = given[j] * share * (_ONE + value * (_ONE - share))
                of_shift[member, 0, j] += one
                of_gain[member, 0, j] += one * row[j]
                values[j] = one * gain[member, 0, j]
                total += values[j]
                along += values[j] * row[j]
            total /= np.float32(width)
            along /= np.float32(width)
            for j in range(width):
                values[j] = factor[member, index] * (values[j] - total - row[j] * along)
                of_bias[member, 0, j] += values[j]


@njit(forceinline=True)
def _clipped(value: Any) -> Any:
    """Clip a value to +-10; NaN stays NaN."""
    if value > _CLIP:
        return _CLIP
    return -_CLIP if value < -_CLIP else value


@njit(error_model="numpy", cache=True)
def network_inputs(vector: Any, action: Any, row: Any, scales: Any, inputs: Any) -> None:
    """Write normalised observation and action of each padded row to `inputs` (P, D + A)."""
    size, actions = vector.shape[1], action.shape[1]
    for p in range(len(row)):
        before = vector[row[p]]
        for j in range(size):
            inputs[p, j] = _clipped((before[j] - scales.center[j]) / scales.scale[j])
        for j in range(actions):
            inputs[p, size + j] = action[row[p], j]


@njit(error_model="numpy", cache=True)
def arrive(
    vector: Any,
    noise: Any,
    row: Any,
    inputs: Any,
    outputs: Any,
    scales: Any,
    arrived: Any,
    heads: Any,
) -> None:
    """Write the next observation of each padded row, and the inputs of the heads (P, 3 D + A).

    inputs: of the dynamics. outputs: theirs, (P, 2 D): mean and raw deviation.
    arrived: (2, P, D), the next observation, and 1 where the limits of the data did not clip it.
    """
    size, width = vector.shape[1], inputs.shape[1]
    for p in range(len(row)):
        before, drawn = vector[row[p]], noise[row[p]]
        for j in range(width):
            heads[p, j] = inputs[p, j]
        for j in range(size):
            raw = outputs[p, size + j] - np.float32(scales.log_std_max)
            deviation = np.float32(scales.std_high) * sigmoid(raw) + np.float32(scales.std_low)
            change = outputs[p, j] + deviation * drawn[j]
            value = before[j] + change * scales.change_scale[j]
            free = _ONE
            if value < scales.low[j]:
                value, free = scales.low[j], np.float32(0.0)
            elif value > scales.high[j]:
                value, free = scales.high[j], np.float32(0.0)
            arrived[0, p, j], arrived[1, p, j] = value, free
            heads[p, width + j] = _clipped((value - scales.center[j]) / scales.scale[j])
            change = (value - before[j]) / scales.change_scale[j]
            heads[p, width + size + j] = _clipped(change)


@njit(error_model="numpy", cache=True)
def outcomes(outcome: Any, place: Any, scales: Any, result: Any) -> None:
    """Write reward, reward of a terminal step and probability of termination of each batch row, (3, B).

    outcome: (P, 3), outputs of the heads.
    """
    low, high = scales.reward_range[0], scales.reward_range[1]
    for b in range(len(place)):
        values = outcome[place[b]]
        for kind in range(2):
            value = scales.reward[kind, 0] + values[kind] * scales.reward[kind, 1]
            value = low if value < low else value
            result[kind, b] = high if value > high else value
        # Exact: `sigmoid` rounds small probabilities to 0.
        result[2, b] = _ONE / (_ONE + np.exp(np.float32(scales.log_terminal_weight) - values[2]))


@njit(error_model="numpy", cache=True)
def outcomes_gradient(
    given: Any, outcome: Any, result: Any, place: Any, scales: Any, slope: Any
) -> None:
    """Gradient of the outputs of the heads (P, 3), zero before, given that of the results (3, B)."""
    low, high = scales.reward_range[0], scales.reward_range[1]
    for b in range(len(place)):
        for kind in range(2):
            value = scales.reward[kind, 0] + outcome[place[b], kind] * scales.reward[kind, 1]
            if low <= value <= high:
                slope[place[b], kind] = given[kind, b] * scales.reward[kind, 1]
        slope[place[b], 2] = given[2, b] * result[2, b] * (_ONE - result[2, b])


@njit(error_model="numpy", cache=True)
def arrive_gradient(
    given: Any, noise: Any, place: Any, outputs: Any, heads: Any, free: Any, scales: Any, of_heads: Any,
    slope: Any, vector: Any, action: Any,
) -> None:  # fmt: skip
    """Gradients through `arrive`, of the batch rows.

    given: (B, D), of the next observations. of_heads: (P, 3 D + A), of the inputs of the heads.
    Writes the gradient of `outputs` to `slope` (P, 2 D), zero before, and the direct parts of the gradients of the
    observations and actions to `vector` (B, D) and `action` (B, A).
    """
    size, actions = vector.shape[1], action.shape[1]
    width = size + actions
    for b in range(len(place)):
        p = place[b]
        for j in range(actions):
            action[b, j] = of_heads[p, size + j]
        for j in range(size):
            total, change = given[b, j], np.float32(0.0)
            if abs(heads[p, width + j]) < _CLIP:
                total += of_heads[p, width + j] / scales.scale[j]
            if abs(heads[p, width + size + j]) < _CLIP:
                change = of_heads[p, width + size + j] / scales.change_scale[j]
            moved = (total + change) * free[p, j]
            mean = moved * scales.change_scale[j]
            share = sigmoid(outputs[p, size + j] - np.float32(scales.log_std_max))
            slope[p, j] = mean
            deviation = np.float32(scales.std_high) * share * (_ONE - share)
            slope[p, size + j] = mean * noise[b, j] * deviation
            value = moved - change
            if abs(heads[p, j]) < _CLIP:
                value += of_heads[p, j] / scales.scale[j]
            vector[b, j] = value


@njit(error_model="numpy", cache=True)
def network_inputs_gradient(
    of_inputs: Any, inputs: Any, place: Any, scales: Any, vector: Any, action: Any
) -> None:
    """Add the gradients through `network_inputs` to those of the batch rows. of_inputs: (P, D + A)."""
    size, actions = vector.shape[1], action.shape[1]
    for b in range(len(place)):
        p = place[b]
        for j in range(size):
            if abs(inputs[p, j]) < _CLIP:
                vector[b, j] += of_inputs[p, j] / scales.scale[j]
        for j in range(actions):
            action[b, j] += of_inputs[p, size + j]
