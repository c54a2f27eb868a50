"""Simulator of parallel environments of one twin, and the options and results of its steps."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.simulation.config import (
        ObservationMode as ObservationMode,
        OnUncertain as OnUncertain,
        SimulatorConfig as SimulatorConfig,
    )
    from world_env.simulation.differentiable_rollout import rollout as rollout
    from world_env.simulation.simulator import Simulator as Simulator
    from world_env.simulation.snapshot import Snapshot as Snapshot
    from world_env.simulation.step_outputs import StepResult as StepResult

__all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
