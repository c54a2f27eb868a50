"""A small ensemble: its sizes, made-up scales of its data, and a step of it."""

import dataclasses
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from world_env.batch import Statistics
from world_env.models.base import Prediction
from world_env.models.ensemble.model import EnsembleConfig, EnsembleWorldModel
from world_env.rng import CounterRNG
from world_env.spec import WorldSpec

MEMBERS, SIZE, ACTIONS, STEPS = 3, 4, 2, 5
SPEC = WorldSpec(spaces.Box(-np.inf, np.inf, (SIZE,), np.float32), spaces.Discrete(ACTIONS))
CONFIG = EnsembleConfig(members=MEMBERS, width=16, layers=2, head_width=12, rollout=STEPS)


def awake(model: EnsembleWorldModel) -> EnsembleWorldModel:
    """Random weights everywhere, the last layers included."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def tied() -> Statistics:
    """Of data whose dimensions 0 and 2 are a unit vector, and whose dimension 1 says nothing of its next value."""
    return statistics(
        center={"observation": torch.full((SIZE,), 0.3)},
        carried={"observation": torch.tensor([1.0, 0.0, 1.0, 1.0])},
        unit_vectors={"observation": torch.tensor([5, -1, 5, -1])},
    )


def statistics(**changes: Any) -> Statistics:
    wide = {"observation": torch.full((SIZE,), 1.2)}
    defaults = Statistics(
        center={"observation": torch.zeros(SIZE)},
        scale={"observation": torch.full((SIZE,), 0.5)},
        change_scale={"observation": torch.tensor([0.1, 0.2, 0.05, 0.1])},
        low={"observation": -wide["observation"]},
        high=wide,
        carried={"observation": torch.ones(SIZE)},
        unit_vectors={"observation": torch.full((SIZE,), -1)},
        reward_center=-1.0,
        reward_scale=2.0,
        terminal_reward_center=5.0,
        terminal_reward_scale=1.0,
        reward_low=-10.0,
        reward_high=10.0,
        terminal_fraction=0.1,
    )
    return dataclasses.replace(defaults, **changes)


def stepped(
    model: EnsembleWorldModel, vector: Tensor, temperature: float = 0.0, member: int = 0
) -> tuple[Tensor, Prediction]:
    rows = len(vector)
    state = model._fresh(vector, torch.full((rows,), member))
    action = torch.eye(ACTIONS)[torch.arange(rows) % ACTIONS]
    noise = CounterRNG.from_seed(3, rows)
    arrived, prediction = model.step(
        state, action, rng=noise, temperature=temperature, uncertainty=True
    )
    return arrived["observation"], prediction
