"""Evaluation of policies: learned against real returns, predicted returns, exploitation alarm."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.policy_evaluation.config import (
        AlarmConfig as AlarmConfig,
        PoolConfig as PoolConfig,
    )
    from world_env.policy_evaluation.correlation import (
        EVALUATION as EVALUATION,
        OPTIMISATION as OPTIMISATION,
        PolicyReturns as PolicyReturns,
        bootstrap as bootstrap,
        statistics as statistics,
    )
    from world_env.policy_evaluation.evaluate_twin import (
        TrainedPolicy as TrainedPolicy,
        evaluate_twin as evaluate_twin,
        predictions_by_kind as predictions_by_kind,
    )
    from world_env.policy_evaluation.exploitation_alarm import (
        ExploitationAlarm as ExploitationAlarm,
        ExploitationWarning as ExploitationWarning,
    )
    from world_env.policy_evaluation.policy_pool import Pool as Pool, pool as pool
    from world_env.policy_evaluation.pool_selection import range_shares as range_shares
    from world_env.policy_evaluation.return_prediction import (
        ReturnPrediction as ReturnPrediction,
        coverage as coverage,
        learned_returns as learned_returns,
        predict_return as predict_return,
    )

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
