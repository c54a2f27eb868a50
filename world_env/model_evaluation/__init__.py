"""Evaluation of world models and twins on real episodes that they were not fitted to."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.model_evaluation.action_effects import (
        measure_action_effects as measure_action_effects,
    )
    from world_env.model_evaluation.error_by_horizon import measure_horizons as measure_horizons
    from world_env.model_evaluation.errors import (
        errors_per_row as errors_per_row,
        scales_of as scales_of,
    )
    from world_env.model_evaluation.log_replay import replay_logs as replay_logs
    from world_env.model_evaluation.open_loop import (
        evaluate_open_loop as evaluate_open_loop,
        evaluation_windows as evaluation_windows,
    )
    from world_env.model_evaluation.termination import auroc as auroc

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
