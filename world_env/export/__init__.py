"""Export of policies and twins to files that need no world-env: ONNX graphs and plain Stable-Baselines3 models."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.export.policy_export import export_policy as export_policy
    from world_env.export.result import ExportResult as ExportResult
    from world_env.export.twin_export import export_twin as export_twin

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
