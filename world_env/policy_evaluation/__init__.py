"""Evaluation of policies: learned against real returns, predicted returns, exploitation alarm."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.policy_evaluation.config import AlarmConfig, PoolConfig
    from world_env.policy_evaluation.correlation import (
        EVALUATION,
        OPTIMISATION,
        PolicyReturns,
        bootstrap,
        statistics,
    )
    from world_env.policy_evaluation.evaluate_twin import (
        TrainedPolicy,
        evaluate_twin,
        predictions_by_kind,
    )
    from world_env.policy_evaluation.exploitation_alarm import (
        ExploitationAlarm,
        ExploitationWarning,
    )
    from world_env.policy_evaluation.policy_pool import Pool, pool
    from world_env.policy_evaluation.pool_selection import range_shares
    from world_env.policy_evaluation.return_prediction import (
        ReturnPrediction,
        coverage,
        predict_return,
    )

__all__ = [
    "EVALUATION",
    "OPTIMISATION",
    "AlarmConfig",
    "ExploitationAlarm",
    "ExploitationWarning",
    "PolicyReturns",
    "Pool",
    "PoolConfig",
    "ReturnPrediction",
    "TrainedPolicy",
    "bootstrap",
    "coverage",
    "evaluate_twin",
    "pool",
    "predict_return",
    "predictions_by_kind",
    "range_shares",
    "statistics",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "config": (
            "AlarmConfig",
            "PoolConfig",
        ),
        "correlation": (
            "EVALUATION",
            "OPTIMISATION",
            "PolicyReturns",
            "bootstrap",
            "statistics",
        ),
        "evaluate_twin": (
            "TrainedPolicy",
            "evaluate_twin",
            "predictions_by_kind",
        ),
        "exploitation_alarm": (
            "ExploitationAlarm",
            "ExploitationWarning",
        ),
        "policy_pool": (
            "Pool",
            "pool",
        ),
        "pool_selection": ("range_shares",),
        "return_prediction": (
            "ReturnPrediction",
            "coverage",
            "predict_return",
        ),
    },
)
