"""Spaces that the policies of Stable-Baselines3 support, checked before a training."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from world_env.envs.action_masks import DEFAULT_KEY, check_mask_key
from world_env.errors import InvalidOptionError, SpaceMismatchError
from world_env.rl.config import LearnConfig
from world_env.spaces import is_image
from world_env.spec import WorldSpec


def check_training_in_twin(config: LearnConfig, spec: WorldSpec) -> None:
    """Check that a policy can be trained in a twin with these spaces, before there is a twin.

    Raises SpaceMismatchError, InvalidOptionError.
    """
    latent = config.observation_mode == "latent"
    check_supported(None if latent else spec.observation_space, spec.action_space)
    if config.algo == "MaskablePPO":
        key = config.action_mask_key or DEFAULT_KEY
        check_mask_key(spec.observation_space, spec.action_space, key)


def check_supported(observed: spaces.Space[Any] | None, acted: spaces.Space[Any]) -> None:
    """Check the spaces of a policy: of its input (None: latents) and of its actions.

    Raises SpaceMismatchError for categories that do not start at 0, InvalidOptionError for images without channels.
    """
    if np.any(getattr(acted, "start", 0)):
        raise SpaceMismatchError(
            f"the action space {acted} does not start at 0, but the policies of Stable-Baselines3 do: wrap the "
            'environment in "world_env.wrappers:ZeroBasedActions" (EnvConfig.wrappers or '
            "--wrapper)"
        )
    parts = observed.spaces if isinstance(observed, spaces.Dict) else {"observation": observed}
    for key, part in parts.items():
        if np.any(getattr(part, "start", 0)):
            raise SpaceMismatchError(
                f"the observation {key!r} is {part}, which does not start at 0, but the policies of Stable-Baselines3 "
                'do: wrap the environment in "world_env.wrappers:ZeroBasedObservations" (EnvConfig.wrappers or '
                "--wrapper), or train on latents (observation_mode='latent', --observation-mode latent)"
            )
    if observed is not None and is_image(observed) and len(observed.shape or ()) == 2:
        raise InvalidOptionError(
            f"image observations of shape {observed.shape} have no channel axis, but Stable-Baselines3's CnnPolicy "
            "needs one: train on latents (observation_mode='latent', --observation-mode latent), or wrap the "
            "environment in gymnasium.wrappers.GrayscaleObservation with keep_dim=True"
        )
