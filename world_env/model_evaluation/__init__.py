"""Evaluation of world models and twins on real episodes that they were not fitted to."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.model_evaluation.action_effects import measure_action_effects
    from world_env.model_evaluation.error_by_horizon import measure_horizons
    from world_env.model_evaluation.errors import errors_per_row, scales_of
    from world_env.model_evaluation.log_replay import replay_logs
    from world_env.model_evaluation.open_loop import evaluate_open_loop, evaluation_windows
    from world_env.model_evaluation.termination import auroc

__all__ = [
    "auroc",
    "errors_per_row",
    "evaluate_open_loop",
    "evaluation_windows",
    "measure_action_effects",
    "measure_horizons",
    "replay_logs",
    "scales_of",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "action_effects": ("measure_action_effects",),
        "error_by_horizon": ("measure_horizons",),
        "errors": (
            "errors_per_row",
            "scales_of",
        ),
        "log_replay": ("replay_logs",),
        "open_loop": (
            "evaluate_open_loop",
            "evaluation_windows",
        ),
        "termination": ("auroc",),
    },
)
