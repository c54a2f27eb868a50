"""Export of a trained policy: as an ONNX graph, or as a model that loads with Stable-Baselines3 alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from world_env.atomic_io import write_bytes
from world_env.errors import ExportError, UnsupportedSpaceError
from world_env.export.onnx_graph import (
    Arrays,
    Comparison,
    Tensors,
    check_installed,
    onnx_graph,
    run_graph,
)
from world_env.export.policy_source import network_of, observations_for_check, trained_model
from world_env.export.result import ExportFormat, ExportResult, check_out
from world_env.export.sb3_export import export_sb3
from world_env.spaces import space_to_json
from world_env.types import JSON, OBSERVATION

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from world_env.policies.protocol import Policy
    from world_env.twin.twin import Twin

_ACTION, _MASKS = "action", "action_masks"


def export_policy(
    policy: Policy | BaseAlgorithm | str | Path,
    out: str | Path,
    *,
    format: ExportFormat = "onnx",
    twin: Twin | None = None,
) -> ExportResult:
    """Export a trained policy to a file that needs no world-env.

    policy: folder of a saved policy, the .zip of a model of Stable-Baselines3 or sb3-contrib, such a model, or an
        `SB3Policy`.
    out: the file, NAME.onnx or NAME.zip.
    format: "onnx": graph from observations (B, ...) to the deterministic actions (B, ...), both in the units of the
        environment. "sb3": a model that loads with Stable-Baselines3 (or sb3-contrib) alone.
    twin: its data states are the observations on which the export is compared with the policy. None: random ones.
    The export is compared with `predict` of the policy before the file is written.
    Raises ExportError if the policy cannot be exported or the export differs from it, InvalidOptionError for an unknown
    format or file name, MissingExtraError without the extra `export`, and what `load_policy` raises.
    """
    target = Path(out)
    check_out(target, format)
    if format == "onnx":
        check_installed()
    model = trained_model(policy)
    if format == "sb3":
        return export_sb3(model, target, twin)
    return _export_onnx(model, target, twin)


def _export_onnx(model: Any, target: Path, twin: Twin | None) -> ExportResult:
    network = network_of(model)
    if hasattr(network, "lstm_actor"):
        raise ExportError(
            f"the policy is recurrent ({type(network).__name__}), and its graph would need the episode's memory: only "
            "policies without memory are exported to ONNX. Use --format sb3 (format='sb3'), and sb3-contrib where the "
            "policy acts"
        )
    network.set_training_mode(False)
    seen = _inputs(network, observations_for_check(model, twin, clipped=True))
    masked = _takes_masks(network)
    if masked:
        seen[_MASKS] = _random_masks(network.action_space, len(next(iter(seen.values()))))
    device = network.device
    network.to("cpu")
    try:
        content = onnx_graph(
            lambda tensors: {_ACTION: _act(network, tensors)},
            {name: torch.as_tensor(value[:2]) for name, value in seen.items()},
            network,
            metadata={"kind": "policy", "policy": _described(model, network)},
            what=f"the policy ({type(network).__name__})",
        )
    finally:
        network.to(device)
    comparison, run = Comparison(), run_graph(content)
    for rows in (slice(0, 1), slice(1, None)):
        part = {name: value[rows] for name, value in seen.items()}
        if len(next(iter(part.values()))):
            comparison.add(run(part), {_ACTION: _predicted(network, part, masked)})
    error = comparison.check("Please report it, with the policy.")
    write_bytes(target, content)
    return ExportResult(files=(target,), checked=comparison.rows, max_error=error)


def _inputs(network: Any, observations: Any) -> Arrays:
    """Inputs of the graph: float32 for real numbers, integers as they are. Of a Dict, "observation.KEY" each."""
    if isinstance(network.observation_space, spaces.Dict):
        return {f"{OBSERVATION}.{key}": _plain(value) for key, value in observations.items()}
    return {OBSERVATION: _plain(observations)}


def _plain(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) if values.dtype.kind == "f" else values


def _observation(network: Any, named: dict[str, Any]) -> Any:
    if isinstance(network.observation_space, spaces.Dict):
        return {key: named[f"{OBSERVATION}.{key}"] for key in network.observation_space.spaces}
    return named[OBSERVATION]


def _act(network: Any, tensors: Tensors) -> Tensor:
    """`predict` of Stable-Baselines3 on tensors: deterministic actions (B, ...) in the units of the environment."""
    space = network.action_space
    observation = _observation(network, tensors)
    if _MASKS in tensors:
        actions = network.get_distribution(observation, tensors[_MASKS]).get_actions(
            deterministic=True
        )
    else:
        actions = network._predict(observation, deterministic=True)
    actions = actions.reshape(-1, *space.shape)
    if not isinstance(space, spaces.Box):
        return actions  # type: ignore[no-any-return]
    low, high = (torch.as_tensor(bound, dtype=actions.dtype) for bound in (space.low, space.high))
    if network.squash_output:
        return low + 0.5 * (actions + 1.0) * (high - low)
    return actions.clamp(low, high)  # type: ignore[no-any-return]


def _predicted(network: Any, named: Arrays, masked: bool) -> np.ndarray:
    options = {"action_masks": named[_MASKS]} if masked else {}
    actions, _ = network.predict(_observation(network, named), deterministic=True, **options)
    return np.asarray(actions)


def _takes_masks(network: Any) -> bool:
    """Whether a policy chooses among allowed actions only (MaskablePPO)."""
    return "action_masks" in network.predict.__code__.co_varnames


def _random_masks(space: spaces.Space[Any], rows: int) -> np.ndarray:
    """Masks (rows, N) bool with at least one allowed action of each component."""
    if isinstance(space, spaces.Discrete):
        sizes = [int(space.n)]
    elif isinstance(space, spaces.MultiDiscrete):
        sizes = space.nvec.tolist()
    else:
        sizes = [2] * int(np.prod(space.shape or (1,)))
    rng = np.random.default_rng(1)
    parts = []
    for size in sizes:
        allowed = rng.random((rows, size)) < 0.7
        allowed[np.arange(rows), rng.integers(size, size=rows)] = True
        parts.append(allowed)
    return np.concatenate(parts, 1)


def _described(model: Any, network: Any) -> JSON:
    return {
        "algorithm": type(model).__name__,
        "observation_space": _space(network.observation_space),
        "action_space": _space(network.action_space),
    }


def _space(space: spaces.Space[Any]) -> JSON | str:
    try:
        return space_to_json(space)
    except UnsupportedSpaceError:
        return str(space)
