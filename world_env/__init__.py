"""Learned simulators with the Gymnasium API: `import world_env; gym.make("WorldModel-v0")`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from world_env import errors
from world_env.lazy import lazy_names
from world_env.registration import register_all

if TYPE_CHECKING:
    from world_env.batch import Context as Context
    from world_env.collection.collect import collect as collect
    from world_env.collection.config import CollectConfig as CollectConfig
    from world_env.data.sources import open_dataset as open_dataset
    from world_env.data.validation.lint import lint as lint
    from world_env.envs.env import WorldModelEnv as WorldModelEnv
    from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv as WorldModelSB3VecEnv
    from world_env.envs.vector_env import WorldModelVectorEnv as WorldModelVectorEnv
    from world_env.fitting.config import FitConfig as FitConfig
    from world_env.fitting.fit import fit as fit
    from world_env.models.base import (
        Prediction as Prediction,
        TrainableWorldModel as TrainableWorldModel,
        WorldModel as WorldModel,
    )
    from world_env.models.registry import register_world_model as register_world_model
    from world_env.pipeline.build import build as build
    from world_env.pipeline.config import BuildConfig as BuildConfig
    from world_env.policy_evaluation.compare import compare as compare
    from world_env.policy_evaluation.config import (
        AlarmConfig as AlarmConfig,
        PoolConfig as PoolConfig,
    )
    from world_env.policy_evaluation.exploitation_alarm import (
        ExploitationAlarm as ExploitationAlarm,
    )
    from world_env.policy_evaluation.return_prediction import predict_return as predict_return
    from world_env.progress import ProgressBars as ProgressBars
    from world_env.refinement.config import RefineConfig as RefineConfig
    from world_env.refinement.refine import refine as refine
    from world_env.rl.config import LearnConfig as LearnConfig
    from world_env.rl.learn import learn as learn
    from world_env.simulation.config import SimulatorConfig as SimulatorConfig
    from world_env.simulation.differentiable_rollout import rollout as rollout
    from world_env.simulation.simulator import Simulator as Simulator
    from world_env.simulation.termination import EpisodeEnd as EpisodeEnd
    from world_env.spec import (
        EnvConfig as EnvConfig,
        WorldSpec as WorldSpec,
        WrapperConfig as WrapperConfig,
    )
    from world_env.testing.model_checks import check_world_model as check_world_model
    from world_env.testing.vector_env_checks import check_vector_env as check_vector_env
    from world_env.twin.serialization import list_twins as list_twins
    from world_env.twin.twin import Twin as Twin

__version__ = "0.1.0"
_names, __getattr__, __dir__ = lazy_names(__name__, __file__)
__all__ = [*_names, "errors"]

register_all()
