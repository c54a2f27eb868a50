"""Results of the stages: typed, immutable, with strict JSON in both directions."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.results.comparison import (
        Comparison as Comparison,
        PolicyComparison as PolicyComparison,
    )
    from world_env.results.fidelity import Fidelity as Fidelity
    from world_env.results.log_comparison import LogComparison as LogComparison
    from world_env.results.provenance import Provenance as Provenance, facts as facts
    from world_env.results.round_log import PredictedReturn as PredictedReturn, RoundLog as RoundLog
    from world_env.results.step_plan import PlannedSteps as PlannedSteps, StepPlan as StepPlan

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
