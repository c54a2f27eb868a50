"""Policies as functions of observations."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from world_env.policies.latent_policy import LatentActor, encoder_of

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm


Actor = Callable[[Any, np.ndarray], np.ndarray]
"""(batched observations, (B,) episode indices) -> batched actions."""


def policy_actor(model: BaseAlgorithm, *, deterministic: bool = True) -> Actor:
    """Return the actor of a trained policy, with its encoder if it is a latent policy.

    deterministic: whether to take the mode of the action distribution instead of a sample.
    Recurrent policies are not supported.
    """
    encoder = encoder_of(model)
    if encoder is not None:
        return LatentActor(model, encoder, deterministic=deterministic)
    return lambda observation, rows: model.predict(observation, deterministic=deterministic)[0]


def as_actor(policy: Actor | BaseAlgorithm) -> Actor:
    """Return the actor of a model of Stable-Baselines3; functions are returned as they are."""
    from stable_baselines3.common.base_class import BaseAlgorithm

    return policy_actor(policy) if isinstance(policy, BaseAlgorithm) else policy


def scripted_actor(name: str) -> Actor:
    """Return the actor of a hand-written policy, "module:function": batched observations to batched actions."""
    module, _, function = name.partition(":")
    act = getattr(importlib.import_module(module), function)
    return lambda observation, rows: np.asarray(act(observation))


def random_actor(space: spaces.Space[Any], seeds: Sequence[int]) -> Actor:
    """Return an actor with uniform random actions. seeds: one per episode."""
    import copy

    samplers = [copy.deepcopy(space) for _ in seeds]
    for sampler, seed in zip(samplers, seeds, strict=True):
        sampler.seed(int(seed))
    return lambda observation, rows: np.stack([samplers[row].sample() for row in rows])


def begin_episodes(actor: Actor) -> None:
    """Reset the state that an actor keeps across steps. Call it before new episodes."""
    if isinstance(actor, LatentActor):
        actor.begin()
