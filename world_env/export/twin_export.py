"""Export of a twin as ONNX graphs: one step of its world model, and the start of an episode."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from world_env.atomic_io import write_bytes
from world_env.batch import Context, State
from world_env.errors import ExportError
from world_env.export.draws import GivenRNG, NoiseInputs, RecordingRNG
from world_env.export.onnx_graph import (
    Arrays,
    Comparison,
    Tensors,
    check_installed,
    onnx_graph,
    run_graph,
)
from world_env.export.result import ExportResult, check_out
from world_env.export.tensor_codec import TensorCodec, plain
from world_env.models.base import Prediction
from world_env.twin.twin import Twin
from world_env.types import JSON

STATE, NEXT_STATE, CONDITIONING, ACTION = "state.", "next_state.", "conditioning.", "action"
PROBABILITY = "termination_probability"
_CACHE = "cache."
"""Entries of a state that the model can rebuild."""
_ROWS, _STEPS = 4, 8
"""Rows and steps of the comparison with the model."""
_SECOND_SEED = 10_000
_HINT = (
    "Usual causes are Python code of the model that depends on the values of tensors, and random numbers that do not "
    "come from `rng`."
)


def export_twin(twin: Twin | str | Path, out: str | Path) -> ExportResult:
    """Export a twin as two ONNX graphs, which are compared with its model before they are written.

    twin: a twin, the name of a bundled one, or a folder.
    out: NAME.onnx, the graph of one step: (state, action, noise) -> (next state, prediction). NAME-start.onnx beside it
        computes the state of an episode's first observation: (observation, noise) -> state.
    The batch dimension is dynamic. Random numbers are inputs: the graphs draw none. The metadata hold the names and
    distributions of the noise, and spec, fingerprint, thresholds and time limit of the twin.
    Raises ExportError if a function of the model cannot be exported or differs from its graph, InvalidOptionError for
    another file name, MissingExtraError without the extra `export`.
    """
    target = Path(out)
    check_out(target, "onnx")
    check_installed()
    if not isinstance(twin, Twin):
        twin = Twin.load(twin)
    with torch.no_grad():
        graphs = _TwinGraphs(twin)
        comparison = graphs.compare(0)
        if not comparison.close:
            # A category drawn at the edge of its probability may differ once; the function of another model differs
            # again.
            comparison = graphs.compare(_SECOND_SEED)
    error = comparison.check(_HINT)
    beside = target.with_name(f"{target.stem}-start{target.suffix}")
    write_bytes(target, graphs.step)
    write_bytes(beside, graphs.start)
    known = " and ".join(twin.known)
    return ExportResult(
        files=(target, beside),
        checked=comparison.rows,
        max_error=error,
        notes=(f"{known} is computed by a known function, which is not part of the graph",)
        if known
        else (),
    )


class _TwinGraphs:
    """Graphs of a twin's functions, and their comparison with the model."""

    def __init__(self, twin: Twin) -> None:
        self._twin, self._dtype = twin, twin.model.dtype
        self._model = copy.deepcopy(twin.model).cpu().eval()
        if twin.ranges is not None and twin.ranges.offset:
            raise ExportError(
                f"observations {sorted(twin.ranges.offset)} have values that float32 does not resolve, and graphs "
                "have float32 only: subtract a constant in a wrapper of the real environment and fit again, or "
                "step this twin with world-env"
            )
        self._codec = TensorCodec(twin.codec)
        first = twin.starts.select(torch.arange(_ROWS) % len(twin.starts))
        self._observation = twin.codec.decode_observation(first.last())
        self._context = Context.from_observation(
            twin.codec.encode_observation(self._observation),
            twin.codec.action_size,
            first.conditioning,
        ).to("cpu", self._dtype)
        self._facts: JSON = {
            "spec": twin.spec.to_json(),
            "fingerprint": twin.fingerprint(),
            "family": twin.family,
            "horizon": twin.spec.horizon,
            "termination": twin.termination,
            "termination_threshold": twin.termination_threshold,
            "uncertainty_threshold": twin.uncertainty_threshold,
            "ranges": None if twin.ranges is None else twin.ranges.to_json(),
            "known": twin.known,
        }
        self.start, self._start_noise = self._export_start()
        self.step, self._step_noise = self._export_step()

    def compare(self, seed: int) -> Comparison:
        """Compare both graphs with the model, with random numbers of a seed."""
        comparison = Comparison({PROBABILITY: 1.0}, self._codec.rounded)
        recorder = _recorder(seed)
        state = self._model.encode(self._context, rng=recorder)
        inputs = self._start_inputs() | self._start_noise.inputs(recorder)
        _compare(comparison, run_graph(self.start), inputs, _named(STATE, state))
        run, actions = run_graph(self.step), self._actions(seed)
        for number in range(1, _STEPS + 1):
            action, encoded = next(actions)
            recorder = _recorder(seed + number * _ROWS)
            after, prediction = self._model.step(state, encoded, rng=recorder)
            decoded = self._twin.codec.decode_observation(self._model.decode(after))
            arrays = self._codec.arrays(decoded)
            expected = self._outputs(after, prediction)
            expected |= {name: torch.as_tensor(value) for name, value in arrays.items()}
            inputs = _named(STATE, state) | {ACTION: action} | self._step_noise.inputs(recorder)
            _compare(comparison, run, inputs, expected)
            state = after
        return comparison

    def _export_start(self) -> tuple[bytes, NoiseInputs]:
        """Export (observation, noise) -> state: `encode` of one observation."""
        recorder = _recorder(0)
        self._model.encode(self._context, rng=recorder)
        noise = NoiseInputs.of(recorder)

        def function(tensors: Tensors) -> Tensors:
            observation = self._codec.encode(tensors, self._dtype)
            first = next(iter(observation.values()))
            ones = torch.ones_like(first.flatten(1)[:, 0], dtype=torch.int64)
            context = Context(
                {key: value[:, None] for key, value in observation.items()},
                first.new_zeros((first.shape[0], 0, self._twin.codec.action_size)),
                ones,
                torch.zeros_like(ones),
                {name: tensors[CONDITIONING + name] for name in self._context.conditioning},
            )
            state = self._model.encode(context, rng=GivenRNG(noise.numbers(tensors), first))
            return _named(STATE, state)

        inputs = self._start_inputs() | noise.inputs(recorder)
        return self._graph(function, inputs, noise, "twin start", "encode"), noise

    def _export_step(self) -> tuple[bytes, NoiseInputs]:
        """Export (state, action, noise) -> (next state, observation, reward, termination probability)."""
        state = self._model.encode(self._context, rng=_recorder(0))
        action, encoded = next(self._actions(0))
        recorder = _recorder(0)
        self._model.step(state, encoded, rng=recorder)
        noise = NoiseInputs.of(recorder)
        names = [name.removeprefix(STATE) for name in _named(STATE, state)]

        def function(tensors: Tensors) -> Tensors:
            before = {name: tensors[STATE + name] for name in names}
            encoded = self._codec.encode_action(tensors[ACTION], self._dtype)
            rng = GivenRNG(noise.numbers(tensors), encoded)
            return self._outputs(*self._model.step(before, encoded, rng=rng))

        inputs = _named(STATE, state) | {ACTION: action} | noise.inputs(recorder)
        return self._graph(function, inputs, noise, "twin step", "step"), noise

    def _start_inputs(self) -> Tensors:
        arrays = self._codec.arrays(self._observation)
        inputs = {name: torch.as_tensor(value) for name, value in arrays.items()}
        return inputs | _named(CONDITIONING, self._context.conditioning)

    def _actions(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Random actions of all rows: as the input of the graph, and encoded."""
        space = copy.deepcopy(self._twin.spec.action_space)
        space.seed(seed)
        while True:
            action = np.stack([np.asarray(space.sample()) for _ in range(_ROWS)])
            encoded = self._twin.codec.encode_action(action).to(self._dtype)
            yield torch.as_tensor(plain(action)), encoded

    def _outputs(self, state: State, prediction: Prediction) -> Tensors:
        """Next state, decoded observation, rewards in task units within the range of the data, and termination."""
        outputs = _named(NEXT_STATE, state)
        outputs |= self._codec.decode(self._model.decode(state))
        if "reward" not in self._twin.known:
            outputs["reward"] = self._clipped(prediction.reward)
            if prediction.terminal_reward is not None:
                outputs["terminal_reward"] = self._clipped(prediction.terminal_reward)
        if "termination" not in self._twin.known:
            outputs[PROBABILITY] = prediction.terminated.to(torch.float32)
        return outputs

    def _clipped(self, reward: Tensor) -> Tensor:
        ranges, reward = self._twin.ranges, reward.to(torch.float32)
        return reward if ranges is None else reward.clamp(*ranges.reward)

    def _graph(
        self,
        function: Callable[[Tensors], Tensors],
        inputs: Tensors,
        noise: NoiseInputs,
        kind: str,
        method: str,
    ) -> bytes:
        metadata: dict[str, Any] = {"kind": kind, "twin": self._facts, "noise": noise.to_json()}
        what = f"`{method}` of the family {self._twin.family!r}"
        return onnx_graph(function, inputs, self._model, metadata=metadata, what=what)


def _recorder(seed: int) -> RecordingRNG:
    return RecordingRNG(torch.arange(_ROWS) + seed)


def _named(prefix: str, tensors: Tensors) -> Tensors:
    """Tensors by their names in the graph, without entries of a state that the model can rebuild."""
    return {prefix + name: value for name, value in tensors.items() if not name.startswith(_CACHE)}


def _compare(
    comparison: Comparison,
    run: Callable[[Arrays], Arrays],
    inputs: Tensors,
    expected: Tensors,
) -> None:
    """Compare the first row alone, and the other ones together."""
    for rows in (slice(0, 1), slice(1, None)):
        comparison.add(
            run({name: value[rows].numpy() for name, value in inputs.items()}),
            {name: value[rows].numpy() for name, value in expected.items()},
        )
