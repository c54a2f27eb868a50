"""World models that a graph can hold, and some that it cannot."""

from typing import Any

import torch
from torch import Tensor

from world_env.models.base import Prediction
from world_env.models.linear import LinearWorldModel
from world_env.rng import CounterRNG


class Noisy(LinearWorldModel):
    """Two draws."""

    kinds: tuple[str, ...] = ("normal", "normal")

    def step(self, state: Any, action: Tensor, *, rng: CounterRNG, **options: Any) -> Any:
        after, prediction = super().step(state, action, rng=rng, **options)
        drawn = [getattr(rng, kind)(4) for kind in self.kinds]
        return {"observation": after["observation"] + drawn[0] + 2.0 * drawn[1]}, prediction


class Mixed(Noisy):
    """Draws of two kinds."""

    kinds = ("normal", "uniform")


class Branching(LinearWorldModel):
    """Python code that depends on values."""

    def step(self, state: Any, action: Tensor, *, rng: CounterRNG, **options: Any) -> Any:
        if state["observation"].sum() > 0:
            action = -action
        return super().step(state, action, rng=rng, **options)


class Global(LinearWorldModel):
    """Random numbers of torch's global generator."""

    def step(self, state: Any, action: Tensor, *, rng: CounterRNG, **options: Any) -> Any:
        after, prediction = super().step(state, action, rng=rng, **options)
        vector = after["observation"]
        return {"observation": vector + torch.rand_like(vector)}, prediction


class Counted(LinearWorldModel):
    """A number of rows as a Python number."""

    def step(self, state: Any, action: Tensor, *, rng: CounterRNG, **options: Any) -> Any:
        after, prediction = super().step(state, action, rng=rng, **options)
        reward = prediction.reward + torch.arange(len(action)) * 0.0
        return after, Prediction(reward, prediction.terminated)


class Copying(LinearWorldModel):
    """Draws from a copy of the random streams."""

    def step(self, state: Any, action: Tensor, *, rng: CounterRNG, **options: Any) -> Any:
        after, prediction = super().step(state, action, rng=rng, **options)
        return {"observation": after["observation"] + rng.clone().normal(4)}, prediction


class Double(LinearWorldModel):
    """An operation that onnxruntime has in single precision only."""

    def step(self, state: Any, action: Tensor, *, rng: CounterRNG, **options: Any) -> Any:
        after, prediction = super().step(state, action, rng=rng, **options)
        vector = after["observation"]
        return {"observation": vector.double().atan().to(vector.dtype)}, prediction
