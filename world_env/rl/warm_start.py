"""Warm start: initialise a policy with the weights of an earlier one, adapted to the new normalisation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.spaces import Box

from world_env.errors import InvalidOptionError
from world_env.policies.action_units import units_of
from world_env.policies.feature_readers import with_other_features
from world_env.policies.normalization import NormalizedFeatures, normalizers
from world_env.policies.saved_policy import load_policy, policy_card

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv


def load_warm_start(
    model: BaseAlgorithm, folder: Path, env: VecEnv, *, min_action_std: float = 0.0
) -> None:
    """Load the weights of a saved policy into a new algorithm, and its reward statistics into the environments.

    The policy gets the new normalisation, with first layers rewritten to give the same output. The optimizer and the
    schedules start from scratch, except with SVG, which continues with its optimizers: its trainings are short.
    folder: the earlier policy.
    min_action_std: minimum action standard deviation of a Gaussian policy, in half widths of the action space.
    Raises InvalidOptionError for a policy of another algorithm or with other networks.
    """
    continues = hasattr(model, "continue_from")  # SVG, whose policies are stored as those of SAC
    older = load_policy(folder, kind=type(model) if continues else None)
    if type(older) is not type(model):
        raise InvalidOptionError(
            f"warm_start {folder} is a {type(older).__name__} policy, but algo is {type(model).__name__}: choose a "
            "policy of the same algorithm"
        )
    weights = _renormalized(older.policy, model.policy)
    _rescale_values(weights, older.policy, model.policy)
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
    if continues:
        model.continue_from(older)  # type: ignore[attr-defined]
    set_reward_statistics(env, policy_card(folder).provenance["learn"].get("reward_statistics"))


def set_reward_statistics(env: VecEnv, statistics: dict[str, float] | None) -> None:
    """Set the running reward statistics of `VecNormalize`. No effect for None or for environments without it."""
    from stable_baselines3.common.vec_env import VecNormalize

    if isinstance(env, VecNormalize) and statistics is not None:
        for name, value in statistics.items():
            setattr(env.ret_rms, name, value)


def _rescale_values(weights: dict[str, Any], older: Any, newer: Any) -> None:
    """Rewrite the last layers of the critics in place for outputs in another unit."""
    ratio = getattr(older, "value_scale", 1.0) / getattr(newer, "value_scale", 1.0)
    if ratio == 1.0:
        return
    critics = [name for name in weights if name.startswith(("critic.qf", "critic_target.qf"))]
    last = max((int(name.split(".")[2]) for name in critics), default=0)
    for name in critics:
        if int(name.split(".")[2]) == last:
            weights[name] = weights[name] * ratio


def _renormalized(older: Any, newer: Any) -> dict[str, Any]:
    """Weights of the older policy for the normalisation of the newer one.

    Networks without linear layers of the features keep the old normalisation.
    """
    plain = dict(older.state_dict())
    found, wanted = normalizers(older), normalizers(newer)
    if not found or not wanted:
        return plain
    before, after = found[0], wanted[0]  # the same in all networks of a policy
    gain, shift = after.scale / before.scale, (after.mean - before.mean) / before.scale
    try:
        weights = with_other_features(older, gain, shift)
    except InvalidOptionError:
        return plain
    for name, module in older.named_modules(remove_duplicate=False):
        if isinstance(module, NormalizedFeatures):
            weights[f"{name}.mean"] = after.mean.clone()
            weights[f"{name}.scale"] = after.scale.clone()
    return weights
