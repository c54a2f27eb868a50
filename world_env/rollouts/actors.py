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
"""(batched observations, (B,) row numbers) -> batched actions."""


def policy_actor(model: BaseAlgorithm, *, deterministic: bool = True) -> Actor:
    """A trained policy, on what it sees through; recurrent policies are not covered here."""
    encoder = encoder_of(model)
    if encoder is not None:
        return LatentActor(model, encoder, deterministic=deterministic)
    return lambda observation, rows: model.predict(observation, deterministic=deterministic)[0]


def scripted_actor(name: str) -> Actor:
    """A policy written by hand, "module:function": batched observations in, batched actions out."""
    module, _, function = name.partition(":")
    act = getattr(importlib.import_module(module), function)
    return lambda observation, rows: np.asarray(act(observation))


def random_actor(space: spaces.Space[Any], seeds: Sequence[int]) -> Actor:
    """Uniform random actions, each row with a generator of its own."""
    import copy

    samplers = [copy.deepcopy(space) for _ in seeds]
    for sampler, seed in zip(samplers, seeds, strict=True):
        sampler.seed(int(seed))
    return lambda observation, rows: np.stack([samplers[row].sample() for row in rows])


def begin_episodes(actor: Actor) -> None:
    """New episodes begin: an actor with a memory forgets the old ones."""
    if isinstance(actor, LatentActor):
        actor.begin()
