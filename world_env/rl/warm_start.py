"""A new policy begins where an older one ended: the same actions and values, in the new twin's scales."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.spaces import Box

from world_env.errors import InvalidOptionError
from world_env.policies.normalization import NormalizedFeatures
from world_env.policies.saved_policy import load_policy, policy_card

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

_FIRST_LAYERS = ("mlp_extractor.policy_net.0", "mlp_extractor.value_net.0")


def begin_from(
    model: BaseAlgorithm, folder: Path, env: VecEnv, *, least_noise: float = 0.0
) -> None:
    """Give a fresh algorithm the weights of a policy in a folder, and its worlds the scale of that policy's rewards.

    Weights of an actor-critic policy are rewritten for the fresh one's normalisation, which knows more data; other
    policies keep the older one. The optimiser and the schedules begin anew.
    least_noise: deviation of a Gaussian policy's actions to begin with, at least, in half widths of the action space.
    Raises InvalidOptionError for a policy of another algorithm or other networks.
    """
    older = load_policy(folder)
    if type(older) is not type(model):
        raise InvalidOptionError(
            f"the policy {folder} is of {type(older).__name__}, this training is of {type(model).__name__}: begin from "
            "a policy of the same algorithm"
        )
    weights = dict(older.policy.state_dict())
    _renormalize(weights, older.policy, model.policy)
    try:
        model.policy.load_state_dict(weights)
    except RuntimeError as error:
        raise InvalidOptionError(
            f"the policy {folder} has other networks than this training ({error}): begin from a policy with the same "
            "policy_kwargs"
        ) from error
    noise, space = getattr(model.policy, "log_std", None), model.action_space
    # State-dependent exploration (gSDE) has weights instead of deviations.
    if noise is not None and noise.ndim == 1 and least_noise > 0.0 and isinstance(space, Box):
        half = np.subtract(space.high, space.low).flatten() / 2 if space.is_bounded() else 1.0
        least = torch.as_tensor(np.log(least_noise * half), dtype=noise.dtype)
        noise.data.copy_(noise.maximum(least))
    # SAC learns its temperature beside the policy.
    ours, theirs = (getattr(each, "log_ent_coef", None) for each in (model, older))
    if ours is not None and theirs is not None:
        ours.data.copy_(theirs.data)
    set_reward_statistics(env, policy_card(folder)["provenance"]["learn"].get("reward_statistics"))


def set_reward_statistics(env: VecEnv, statistics: dict[str, float] | None) -> None:
    """Take up a scale of the rewards; None, or worlds that do not scale them: nothing happens."""
    from stable_baselines3.common.vec_env import VecNormalize

    if isinstance(env, VecNormalize) and statistics is not None:
        for name, value in statistics.items():
            setattr(env.ret_rms, name, value)


def _renormalize(weights: dict[str, Any], older: Any, newer: Any) -> None:
    """Rewrite, in place, what depends on the normalisation: x_old = gain * x_new + shift, seen by the first layers."""
    before, after = (getattr(policy, "features_extractor", None) for policy in (older, newer))
    if not isinstance(before, NormalizedFeatures) or not isinstance(after, NormalizedFeatures):
        return
    layers = [name for name in _FIRST_LAYERS if f"{name}.weight" in weights]
    if len(layers) < len(_FIRST_LAYERS):
        return
    gain, shift = after.scale / before.scale, (after.mean - before.mean) / before.scale
    for name in layers:
        weight = weights[f"{name}.weight"]
        weights[f"{name}.bias"] = weights[f"{name}.bias"] + weight @ shift
        weights[f"{name}.weight"] = weight * gain
    for name in weights:
        for buffer in ("mean", "scale"):
            if name.endswith(f"features_extractor.{buffer}"):
                weights[name] = torch.clone(getattr(after, buffer))
