"""Warm start: initialise a policy with the weights of an earlier one, adapted to the new normalisation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.spaces import Box

from world_env.errors import InvalidOptionError
from world_env.policies.action_units import units_of
from world_env.policies.normalization import NormalizedFeatures
from world_env.policies.saved_policy import load_policy, policy_card

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

_FIRST_LAYERS = ("mlp_extractor.policy_net.0", "mlp_extractor.value_net.0")


def load_warm_start(
    model: BaseAlgorithm, folder: Path, env: VecEnv, *, min_action_std: float = 0.0
) -> None:
    """Load the weights of a saved policy into a new algorithm, and its reward statistics into the environments.

    An actor-critic policy gets the new normalisation, with first layers rewritten to give the same output; other
    policies keep the earlier normalisation. The optimizer and the schedules start from scratch.
    folder: the earlier policy.
    min_action_std: minimum action standard deviation of a Gaussian policy, in half widths of the action space.
    Raises InvalidOptionError for a policy of another algorithm or with other networks.
    """
    older = load_policy(folder)
    if type(older) is not type(model):
        raise InvalidOptionError(
            f"warm_start {folder} is a {type(older).__name__} policy, but algo is {type(model).__name__}: choose a "
            "policy of the same algorithm"
        )
    weights = dict(older.policy.state_dict())
    _renormalize(weights, older.policy, model.policy)
    units = units_of(model)
    if units is not None and "action_net.weight" in weights:
        # Saved policies act in the units of the task.
        units.fold(weights, inverse=True)
    try:
        model.policy.load_state_dict(weights)
    except RuntimeError as error:
        raise InvalidOptionError(
            f"warm_start {folder} has other networks than the new policy ({error}): choose a policy with the same "
            "policy_kwargs"
        ) from error
    log_std, space = getattr(model.policy, "log_std", None), model.action_space
    # State-dependent exploration (gSDE) has weights instead of standard deviations.
    if (
        log_std is not None
        and log_std.ndim == 1
        and min_action_std > 0.0
        and isinstance(space, Box)
    ):
        half = np.subtract(space.high, space.low).flatten() / 2 if space.is_bounded() else 1.0
        minimum = torch.as_tensor(np.log(min_action_std * half), dtype=log_std.dtype)
        log_std.data.copy_(log_std.maximum(minimum))
    # SAC learns its entropy coefficient outside the policy.
    new_coef, old_coef = (getattr(each, "log_ent_coef", None) for each in (model, older))
    if new_coef is not None and old_coef is not None:
        new_coef.data.copy_(old_coef.data)
    set_reward_statistics(env, policy_card(folder).provenance["learn"].get("reward_statistics"))


def set_reward_statistics(env: VecEnv, statistics: dict[str, float] | None) -> None:
    """Set the running reward statistics of `VecNormalize`. No effect for None or for environments without it."""
    from stable_baselines3.common.vec_env import VecNormalize

    if isinstance(env, VecNormalize) and statistics is not None:
        for name, value in statistics.items():
            setattr(env.ret_rms, name, value)


def _renormalize(weights: dict[str, Any], older: Any, newer: Any) -> None:
    """Rewrite the first layers in place for the new normalisation: x_old = gain * x_new + shift."""
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
