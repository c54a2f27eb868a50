"""Learned simulators with the Gymnasium API: `import world_env; gym.make("WorldModel-v0")`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from world_env import errors
from world_env.lazy import lazy_names
from world_env.registration import register_all

if TYPE_CHECKING:
    from world_env.batch import Context
    from world_env.collection.collect import collect
    from world_env.collection.config import CollectConfig
    from world_env.data.sources import open_dataset
    from world_env.data.validation.lint import lint
    from world_env.envs.env import WorldModelEnv
    from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
    from world_env.envs.vector_env import WorldModelVectorEnv
    from world_env.fitting.config import FitConfig
    from world_env.fitting.fit import fit
    from world_env.models.base import Prediction, TrainableWorldModel, WorldModel
    from world_env.models.registry import register_world_model
    from world_env.pipeline.build import build
    from world_env.pipeline.config import BuildConfig
    from world_env.policy_evaluation.compare import compare
    from world_env.policy_evaluation.config import AlarmConfig, PoolConfig
    from world_env.policy_evaluation.exploitation_alarm import ExploitationAlarm
    from world_env.policy_evaluation.return_prediction import predict_return
    from world_env.refinement.config import RefineConfig
    from world_env.refinement.refine import refine
    from world_env.rl.config import LearnConfig
    from world_env.rl.learn import learn
    from world_env.simulation.config import SimulatorConfig
    from world_env.simulation.differentiable_rollout import rollout
    from world_env.simulation.simulator import Simulator
    from world_env.spec import EnvConfig, WorldSpec
    from world_env.testing.model_checks import check_world_model
    from world_env.testing.vector_env_checks import check_vector_env
    from world_env.twin.serialization import list_twins
    from world_env.twin.twin import Twin

__version__ = "0.1.0"

__all__ = [
    "AlarmConfig",
    "BuildConfig",
    "CollectConfig",
    "Context",
    "EnvConfig",
    "ExploitationAlarm",
    "FitConfig",
    "LearnConfig",
    "PoolConfig",
    "Prediction",
    "RefineConfig",
    "Simulator",
    "SimulatorConfig",
    "TrainableWorldModel",
    "Twin",
    "WorldModel",
    "WorldModelEnv",
    "WorldModelSB3VecEnv",
    "WorldModelVectorEnv",
    "WorldSpec",
    "build",
    "check_vector_env",
    "check_world_model",
    "collect",
    "compare",
    "errors",
    "fit",
    "learn",
    "lint",
    "list_twins",
    "open_dataset",
    "predict_return",
    "refine",
    "register_world_model",
    "rollout",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "batch": ("Context",),
        "collection.collect": ("collect",),
        "collection.config": ("CollectConfig",),
        "data.sources": ("open_dataset",),
        "data.validation.lint": ("lint",),
        "envs.env": ("WorldModelEnv",),
        "envs.sb3_vec_env": ("WorldModelSB3VecEnv",),
        "envs.vector_env": ("WorldModelVectorEnv",),
        "fitting.config": ("FitConfig",),
        "fitting.fit": ("fit",),
        "models.base": (
            "Prediction",
            "TrainableWorldModel",
            "WorldModel",
        ),
        "models.registry": ("register_world_model",),
        "pipeline.build": ("build",),
        "pipeline.config": ("BuildConfig",),
        "policy_evaluation.compare": ("compare",),
        "policy_evaluation.config": (
            "AlarmConfig",
            "PoolConfig",
        ),
        "policy_evaluation.exploitation_alarm": ("ExploitationAlarm",),
        "policy_evaluation.return_prediction": ("predict_return",),
        "refinement.config": ("RefineConfig",),
        "refinement.refine": ("refine",),
        "rl.config": ("LearnConfig",),
        "rl.learn": ("learn",),
        "simulation.config": ("SimulatorConfig",),
        "simulation.differentiable_rollout": ("rollout",),
        "simulation.simulator": ("Simulator",),
        "spec": (
            "EnvConfig",
            "WorldSpec",
        ),
        "testing.model_checks": ("check_world_model",),
        "testing.vector_env_checks": ("check_vector_env",),
        "twin.serialization": ("list_twins",),
        "twin.twin": ("Twin",),
    },
)

register_all()
