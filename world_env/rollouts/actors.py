"""Policies as functions of observations."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from gymnasium import spaces

from world_env.errors import InvalidOptionError
from world_env.policies.latent_policy import LatentActor, encoder_of
from world_env.policies.saved_policy import load_policy
from world_env.spaces import is_image
from world_env.spec import WorldSpec, check_same_spaces

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


def as_actor(policy: Actor | BaseAlgorithm | str | Path, spec: WorldSpec) -> Actor:
    """Return the actor of a model of Stable-Baselines3 or of a policy folder; functions are returned as they are.

    Raises SpaceMismatchError for a policy with other spaces than `spec`, InvalidOptionError for anything else.
    """
    from stable_baselines3.common.base_class import BaseAlgorithm

    if isinstance(policy, str | Path):
        return policy_actor(load_policy(policy, expect=spec))
    if hasattr(policy, "predict"):
        model = cast("BaseAlgorithm", policy)
        # Policies on latents have the spaces of their encoder, and images may be transposed.
        plain = isinstance(policy, BaseAlgorithm) and encoder_of(model) is None
        if plain and not is_image(spec.observation_space):
            advice = "use it in a twin of the environment that it was trained in"
            check_same_spaces(policy, spec, called="the policy's {}", advice=advice)
        return policy_actor(model)
    if not callable(policy):
        raise InvalidOptionError(
            f"policy is {type(policy).__name__}, expected a Stable-Baselines3 model, its folder, or a function "
            "(batched observations, environment indices) -> batched actions"
        )
    return policy


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
