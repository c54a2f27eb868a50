"""ONNX graphs of functions on tensors, and the comparison of a graph with its function."""

from __future__ import annotations

import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from world_env.errors import ExportError, MissingExtraError
from world_env.export.result import MAX_RELATIVE_ERROR
from world_env.types import JSON

Tensors = dict[str, Tensor]
Arrays = dict[str, np.ndarray]

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_ROUNDED_APART = 0.01
"""Share of the values of a rounded output that may be rounded to the other side."""
_PREFIX = "world_env."
"""Prefix of our entries in the metadata of a graph."""


def check_installed() -> None:
    """Raise MissingExtraError if a package of the extra `export` is not installed."""
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise MissingExtraError(
                f'{name} is not installed, but an export to ONNX needs it: pip install "world-env[export]"'
            ) from error


class _Graph(nn.Module):
    """A function from named tensors to named tensors as a module from tensors to a tuple, which torch exports."""

    def __init__(
        self, function: Callable[[Tensors], Tensors], names: list[str], module: nn.Module
    ) -> None:
        super().__init__()
        # Weights must belong to a submodule; the function refers to the same module.
        self.module = module
        self._function, self._names = function, names

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._function(dict(zip(self._names, tensors, strict=True))).values())


@torch.no_grad()
def onnx_graph(
    function: Callable[[Tensors], Tensors],
    inputs: Tensors,
    module: nn.Module,
    *,
    metadata: Mapping[str, JSON | str],
    what: str,
) -> bytes:
    """Return a function as an ONNX model whose inputs and outputs have the names of its tensors.

    function: pure function; its outputs have the batch dimension of its inputs.
    inputs: example, name -> (B, ...) with B >= 2. The first dimension of every input is dynamic.
    module: module that holds all weights of the function.
    metadata: name -> JSON tree or text, stored in the model as `world_env.NAME`.
    what: name of the function in errors. Raises ExportError if torch cannot export the function.
    """
    outputs = list(function(inputs))
    dynamic = tuple({0: torch.export.Dim("batch")} for _ in inputs)
    graph = _Graph(function, list(inputs), module).eval()
    try:
        with _quiet(), _unchecked_distributions():
            program: Any = torch.onnx.export(
                graph,
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=outputs,
                dynamic_shapes={"tensors": dynamic},
                dynamo=True,
                verbose=False,
            )
    except Exception as error:
        raise ExportError(
            f"{what} cannot be exported to ONNX: {_cause(error)}. Usual causes are Python code that depends on the "
            "values of tensors (`if tensor > 0`), numpy inside the model, and `len(tensor)` in place of "
            "`tensor.shape[0]`"
        ) from error
    model = program.model_proto
    if any(each.type.tensor_type.shape.dim[0].HasField("dim_value") for each in model.graph.input):
        raise ExportError(
            f"{what} cannot be exported to ONNX: its batch size would be fixed. Use `tensor.shape[0]` in place of "
            "`len(tensor)`, and no Python number that depends on it"
        )
    for name, value in metadata.items():
        text = value if isinstance(value, str) else json.dumps(value, allow_nan=False)
        model.metadata_props.add(key=_PREFIX + name, value=text)
    content: bytes = model.SerializeToString()
    return content


def run_graph(model: bytes) -> Callable[[Arrays], Arrays]:
    """Return the function of an ONNX model: named arrays to named arrays, computed by onnxruntime on the CPU.

    Raises ExportError if onnxruntime has no implementation of an operation of the model.
    """
    import onnxruntime  # type: ignore[import-untyped,import-not-found,unused-ignore]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class but Exception
        raise ExportError(
            f"onnxruntime cannot run the graph ({error!s:.300}): use operations that it supports, in float32 where it "
            "supports no other type"
        ) from error
    inputs = [each.name for each in session.get_inputs()]
    outputs = [each.name for each in session.get_outputs()]

    def run(arrays: Arrays) -> Arrays:
        results = session.run(outputs, {name: arrays[name] for name in inputs})
        return dict(zip(outputs, results, strict=True))

    return run


class Comparison:
    """Largest difference between the outputs of an export and of its source, output by output.

    units: output -> the unit of its differences, if it is larger than its largest value: 1 for probabilities.
    rounded: outputs that are rounded to integers. A few of their values may be rounded to the other side.
    """

    def __init__(
        self,
        units: Mapping[str, float] | None = None,
        rounded: frozenset[str] = frozenset(),
    ) -> None:
        self.rows = 0
        self._rounded = rounded
        self._error: dict[str, float] = {}
        self._size: dict[str, float] = dict(units or {})

    def add(self, exported: Arrays, expected: Arrays) -> None:
        """Compare one batch of outputs. Raises ExportError for another shape."""
        for name, wanted in expected.items():
            got = exported[name]
            if got.shape != wanted.shape:
                raise ExportError(
                    f"the export has an output {name!r} of the shape {got.shape}, expected {wanted.shape}"
                )
            if not wanted.size:
                continue
            left, right = got.astype(np.float64), wanted.astype(np.float64)
            apart = np.where(left == right, 0.0, np.abs(left - right))
            if name in self._rounded and (apart > 0.0).mean() <= _ROUNDED_APART:
                apart = np.where(apart == 1.0, 0.0, apart)
            self._error[name] = max(self._error.get(name, 0.0), _number(apart.max()))
            self._size[name] = max(self._size.get(name, 0.0), float(np.abs(right).max()))
        self.rows += len(next(iter(expected.values())))

    @property
    def relative(self) -> dict[str, float]:
        """Output -> largest difference, relative to the largest value of the output."""
        return {
            name: error / self._size[name] if error > 0.0 and self._size[name] > 0.0 else error
            for name, error in self._error.items()
        }

    @property
    def close(self) -> bool:
        """Whether no difference exceeds `MAX_RELATIVE_ERROR`."""
        return all(value <= MAX_RELATIVE_ERROR for value in self.relative.values())

    def check(self, hint: str) -> float:
        """Return the largest relative difference. Raises ExportError above `MAX_RELATIVE_ERROR`, with a hint."""
        relative = self.relative
        worst = max(relative, key=relative.__getitem__)
        if not self.close:
            raise ExportError(
                f"the export differs from its source: {worst!r} by {relative[worst]:.2g} of its largest value on "
                f"{self.rows} samples, expected at most {MAX_RELATIVE_ERROR:g}. Nothing was written. {hint}"
            )
        return relative[worst]


def _number(value: Any) -> float:
    number = float(value)
    return number if number == number else float("inf")


def _cause(error: BaseException) -> str:
    """The innermost cause of an error of torch, on one line: the outer ones hold pages of general advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines or ['no message'])[0]:.300}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the logs and warnings of the exporter, and the graphs that it prints when it fails."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)


@contextmanager
def _unchecked_distributions() -> Iterator[None]:
    """Without the checks of torch's distributions: Python code that depends on the values of tensors."""
    kind = torch.distributions.Distribution
    checks = kind._validate_args
    kind.set_default_validate_args(False)
    try:
        yield
    finally:
        kind.set_default_validate_args(checks)
