"""The command `export`."""

from __future__ import annotations

from pathlib import Path

from world_env.cli.console import console
from world_env.cli.main import set_threads
from world_env.errors import InvalidOptionError, TwinNotFoundError
from world_env.export.result import ExportFormat, ExportResult
from world_env.results.formatting import percent
from world_env.struct import Struct


class ExportCommand(Struct, frozen=True):
    """Settings of `export`."""

    source: str
    """What to export: folder of a policy, .zip of a model of Stable-Baselines3 or sb3-contrib, name of a bundled twin,
    or folder of a twin."""
    out: Path
    """File to write: NAME.onnx, or NAME.zip with --format sb3. A twin is written as two files, NAME.onnx (a step) and
    NAME-start.onnx (the start of an episode)."""
    format: ExportFormat = "onnx"
    """File format: "onnx" runs in onnxruntime; "sb3", for policies, loads with Stable-Baselines3 alone."""
    twin: str | None = None
    """Twin whose data states are the observations on which an exported policy is checked: name of a bundled twin, or a
    folder. None: random observations."""


def export_command(config: ExportCommand) -> None:
    """Export a policy or a twin to a file that needs no world-env, and check it against its source."""
    set_threads()
    result = _exported(config)
    for path in result.files:
        console.print(f"exported: {path}", soft_wrap=True)
    console.print(f"largest relative error on {result.checked} samples: {result.max_error:.2g}")
    if result.outside_clamp is not None:
        console.print(
            f"share of the data states that the policy clips: {percent(result.outside_clamp)}"
        )
    for note in result.notes:
        console.print(f"[yellow]note[/yellow]: {note}", soft_wrap=True)


def _exported(config: ExportCommand) -> ExportResult:
    from world_env.export.policy_export import export_policy
    from world_env.export.twin_export import export_twin
    from world_env.twin.twin import Twin

    path = Path(config.source)
    if path.suffix == ".zip" or (path / "policy.json").is_file():
        observed = None if config.twin is None else Twin.load(config.twin)
        return export_policy(path, config.out, format=config.format, twin=observed)
    try:
        twin = Twin.load(config.source)
    except TwinNotFoundError as error:
        raise InvalidOptionError(
            f"{config.source!r} is neither a policy (a folder with policy.json, or a .zip) nor a twin: {error}"
        ) from error
    if config.format != "onnx" or config.twin is not None:
        raise InvalidOptionError(
            f"{config.source!r} is a twin, but --format sb3 and --twin are for policies: omit them"
        )
    return export_twin(twin, config.out)
