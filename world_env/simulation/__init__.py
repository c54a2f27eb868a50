"""Simulator of parallel environments of one twin, and the options and results of its steps."""

from typing import TYPE_CHECKING

from world_env.lazy import lazy_names

if TYPE_CHECKING:
    from world_env.simulation.config import SimulatorConfig
    from world_env.simulation.differentiable_rollout import rollout
    from world_env.simulation.simulator import Simulator
    from world_env.simulation.snapshot import Snapshot
    from world_env.simulation.step_outputs import StepResult

__all__ = [
    "Simulator",
    "SimulatorConfig",
    "Snapshot",
    "StepResult",
    "rollout",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "config": ("SimulatorConfig",),
        "differentiable_rollout": ("rollout",),
        "simulator": ("Simulator",),
        "snapshot": ("Snapshot",),
        "step_outputs": ("StepResult",),
    },
)
