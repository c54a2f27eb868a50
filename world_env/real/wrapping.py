"""Wrappers of the real environment, and refusal of those whose numbers change from episode to episode."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
from gymnasium.error import DependencyNotInstalled

from world_env.errors import MissingExtraError, StageError, WorldEnvError
from world_env.real.registered import import_module
from world_env.spaces import wrapper_in_a_file
from world_env.spec import WrapperConfig
from world_env.struct import shortened

_STATISTICS = ("obs_rms", "return_rms", "ret_rms", "running_mean_std")
"""Names of attributes that hold running statistics."""


def wrapped(env: gym.Env, config: WrapperConfig) -> gym.Env:
    """The environment in one of `EnvConfig.wrappers`. Raises StageError, MissingExtraError."""
    name = config.name
    wrapper = _loaded(name, f"wrapper {name!r}")
    if not callable(wrapper):
        raise StageError(
            f"wrapper {name!r} is of type {type(wrapper).__name__}, expected a wrapper class"
        )
    # Gymnasium's wrappers take shapes as tuples; JSON has lists only.
    arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in config.kwargs.items()}
    for key in _functions(wrapper):
        if isinstance(text := arguments.get(key), str):
            arguments[key] = _function(text, key, name)
    try:
        made: gym.Env = wrapper(env, **arguments)
    except WorldEnvError:
        raise
    except DependencyNotInstalled as error:
        raise MissingExtraError(
            f"a package that the wrapper {name!r} needs is not installed ({error}). Install it; for the image wrappers "
            'of Gymnasium: pip install "world-env[pixels]"'
        ) from error
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise StageError(
            f"wrapper {name!r} failed on {env} with the arguments {shortened(arguments)} "
            f"({type(error).__name__}: {error}). Check the arguments of the wrapper: "
            f"WrapperConfig({name!r}, {{...}}). {wrapper_in_a_file(name)}"
        ) from error
    if not isinstance(made, gym.Env):
        raise StageError(
            f"wrapper {name!r} returned an object of type {type(made).__name__}, expected a gymnasium.Env"
        )
    return made


def _loaded(name: str, called: str) -> Any:
    """The object "module:attribute", also of a module in the working directory."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module, called), attribute)
    except AttributeError as error:
        raise StageError(
            f'cannot load {called} ({error}): expected "module:Class", for example '
            '"gymnasium.wrappers:FlattenObservation"'
        ) from error


def _functions(wrapper: Callable[..., Any]) -> list[str]:
    """Names of the parameters of a wrapper that are functions, by their annotations."""
    try:
        parameters = inspect.signature(wrapper).parameters
    except (TypeError, ValueError):  # of compiled code
        return []
    return [
        name
        for name, parameter in parameters.items()
        if "Callable" in inspect.formatannotation(parameter.annotation)
    ]


def _function(text: str, key: str, wrapper: str) -> Any:
    """The function that a text names."""
    module, colon, attribute = text.partition(":")
    if not (colon and attribute.isidentifier() and module.replace(".", "_").isidentifier()):
        raise StageError(
            f"argument {key!r} of the wrapper {wrapper!r} is the text {text!r:.80}, expected a function: write the "
            'function in a module and give "module:function"'
        )
    return _loaded(text, f"the function of argument {key!r} of the wrapper {wrapper!r}")


def layers(env: gym.Env) -> Iterator[gym.Env]:
    """The environment and everything that it wraps, outermost first."""
    yield env
    while isinstance(env, gym.Wrapper):
        env = env.env
        yield env


def refuse_moving_statistics(env: gym.Env) -> None:
    """Raise StageError for a layer that normalises with running statistics.

    Its numbers depend on what the same object showed before: a resumed collection, each worker and each evaluation
    would start with other numbers for the same state.
    """
    for layer in layers(env):
        # Frozen statistics are constants.
        if getattr(layer, "update_running_mean", True) is False:
            continue
        names = [
            name
            for name, value in vars(layer).items()
            if name in _STATISTICS or "RunningMeanStd" in type(value).__name__
        ]
        if names:
            raise StageError(
                f"{type(layer).__name__} normalises with running statistics ({', '.join(names)}), which change with "
                "every step and are reset in every process: observations of the same state would differ between the "
                "data, each evaluation and a resumed run. Remove it: twins and policies normalise observations and "
                "rewards themselves. For fixed scales use gymnasium.wrappers.RescaleObservation or TransformReward."
            )
