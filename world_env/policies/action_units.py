"""Policies that are trained with actions in [-1, 1], whatever the units of the action space.

The exploration noise of a Gaussian policy has a standard deviation of 1 at the start, and its mean is near 0. In a Box
of another width, or away from 0, such a policy hardly explores, or leaves the bounds at once. A training therefore maps
[-1, 1] to the bounds of the Box (`ScaledActions` of `world_env.rl`), and at its end the map is folded into the last
layer and the noise: the finished policy is a plain one of Stable-Baselines3 that acts in the units of the Box.

Algorithms with squashed actions (SAC, TD3, TQC, ...) scale them themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from world_env.codec import action_bounds
from world_env.data_range import DataRange

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

_ATTRIBUTE = "action_units"
_JAX_LAYER = re.compile(r"Dense_(\d+)")


@dataclass(frozen=True)
class ActionUnits:
    """Map of actions in [-1, 1] to the units of a Box.

    space: the Box. middle, half: its middle and half width, of its shape, float64; where it is unbounded, those of the
    data.
    """

    space: spaces.Box
    middle: np.ndarray
    half: np.ndarray

    @classmethod
    def of(cls, space: spaces.Space[Any], ranges: DataRange | None = None) -> ActionUnits | None:
        """Map for a space; None if there is nothing to map: no Box, or one with the bounds [-1, 1].

        ranges: of the data, for actions without bounds. None: [-1, 1] for these.
        """
        if not isinstance(space, spaces.Box):
            return None
        low, high = (bound.reshape(space.shape) for bound in action_bounds(space, ranges))
        if (low == -1.0).all() and (high == 1.0).all():
            return None
        return cls(space, (low + high) / 2.0, (high - low) / 2.0)

    def to_task(self, actions: np.ndarray) -> np.ndarray:
        """Map actions (..., *A) in [-1, 1] to the units of the Box, within its bounds."""
        scaled = self.middle + self.half * np.asarray(actions, np.float64)
        # Policies of Stable-Baselines3 also give floats for a Box of integers.
        dtype = self.space.dtype if self.space.dtype.kind == "f" else np.float32
        return np.clip(scaled, self.space.low, self.space.high).astype(dtype)

    def fold(self, weights: MutableMapping[str, Any], *, inverse: bool = False) -> None:
        """Rewrite the last layer and the noise of a Gaussian policy, to act in the units of the Box.

        weights: "action_net.weight" (A, F), "action_net.bias" (A,) and "log_std" (..., A). inverse: from the units of
        the Box to [-1, 1].
        """
        bias = weights["action_net.bias"]
        half, middle = (
            torch.as_tensor(part.reshape(-1), dtype=bias.dtype, device=bias.device)
            for part in (self.half, self.middle)
        )
        weight, spread = weights["action_net.weight"], weights["log_std"]
        if inverse:
            folded = weight / half[:, None], (bias - middle) / half, spread - half.log()
        else:
            folded = weight * half[:, None], bias * half + middle, spread + half.log()
        names = ("action_net.weight", "action_net.bias", "log_std")
        weights.update(zip(names, folded, strict=True))


def can_fold(model: BaseAlgorithm) -> bool:
    """Whether the policy of an algorithm is Gaussian with a last linear layer, into which the map can be folded."""
    policy: Any = model.policy
    if policy.squash_output:
        return False
    if hasattr(policy, "actor_state"):
        return _last_layer(policy.actor_state.params["params"]) is not None
    from stable_baselines3.common.distributions import (
        DiagGaussianDistribution,
        StateDependentNoiseDistribution,
    )

    head, noise = getattr(policy, "action_net", None), getattr(policy, "action_dist", None)
    if not isinstance(head, nn.Linear):
        return False
    if isinstance(noise, StateDependentNoiseDistribution):
        return bool(noise.full_std and not noise.use_expln)
    return isinstance(noise, DiagGaussianDistribution)


def attach_units(model: BaseAlgorithm, units: ActionUnits | None) -> None:
    """Let the predictions of a model that acts in [-1, 1] be in the units of a Box. None: no longer.

    The forward pass that training uses stays in [-1, 1]. Callbacks that call `predict`, and `save_policy`, see a policy
    in the units of the task.
    """
    policy: Any = model.policy
    vars(policy).pop("predict", None)
    setattr(policy, _ATTRIBUTE, units)
    if units is None:
        return
    predict = policy.predict

    def in_units(*args: Any, **kwargs: Any) -> tuple[np.ndarray, Any]:
        actions, state = predict(*args, **kwargs)
        return units.to_task(actions), state

    policy.predict = in_units


@contextmanager
def without_units(model: BaseAlgorithm) -> Iterator[None]:
    """Detach the units of a running training for a moment: the model is then what the training changes."""
    units = units_of(model)
    attach_units(model, None)
    try:
        yield
    finally:
        attach_units(model, units)


def units_of(model: BaseAlgorithm | Any) -> ActionUnits | None:
    """Return the units that were attached to a model, or None."""
    return getattr(getattr(model, "policy", None), _ATTRIBUTE, None)


def acted_space(model: BaseAlgorithm | Any) -> Any:
    """Return the space of a model's predictions; None for an object without one."""
    units = units_of(model)
    return getattr(model, "action_space", None) if units is None else units.space


def fold_units(model: BaseAlgorithm) -> None:
    """Fold the attached units into the policy. The model then acts, and would go on training, in the units of the Box.

    No effect on a model without units. The state of the optimizer is unchanged.
    """
    units = units_of(model)
    if units is None:
        return
    attach_units(model, None)
    _fold(model, units)
    env: Any = model.get_env()
    while env is not None:
        env.action_space = units.space
        if _ATTRIBUTE in vars(env):
            setattr(env, _ATTRIBUTE, None)
        env = vars(env).get("venv")


@contextmanager
def folded(model: BaseAlgorithm) -> Iterator[None]:
    """Fold the attached units into the policy of a running training for a moment; it then goes on unchanged."""
    units = units_of(model)
    if units is None:
        yield
        return
    policy: Any = model.policy
    is_jax = hasattr(policy, "actor_state")
    space = model.action_space
    kept = policy.actor_state if is_jax else {n: v.clone() for n, v in policy.state_dict().items()}
    noise = {} if is_jax else _noise_matrices(policy)
    _fold(model, units)
    try:
        yield
    finally:
        if is_jax:
            policy.actor_state = kept
        else:
            policy.load_state_dict(kept)
            vars(policy.action_dist).update(noise)
        model.action_space = policy.action_space = space


def _fold(model: BaseAlgorithm, units: ActionUnits) -> None:
    policy: Any = model.policy
    if hasattr(policy, "actor_state"):
        _fold_jax(policy, units)
    else:
        weights = dict(policy.state_dict())
        units.fold(weights)
        policy.load_state_dict(weights)
        # Noise of state-dependent exploration was drawn with the earlier deviations.
        for name, drawn in _noise_matrices(policy).items():
            half = torch.as_tensor(units.half.reshape(-1), dtype=drawn.dtype, device=drawn.device)
            setattr(policy.action_dist, name, drawn * half)
    model.action_space = policy.action_space = units.space


def _noise_matrices(policy: Any) -> dict[str, Tensor]:
    """Noise matrices of state-dependent exploration by name; none for other policies."""
    names = ("exploration_mat", "exploration_matrices")
    return {
        name: value for name in names if (value := vars(policy.action_dist).get(name)) is not None
    }


def _last_layer(parameters: Any) -> str | None:
    """Name of the last layer of an actor of SBX; None for an actor that is not Gaussian, or of another structure."""
    numbers = [int(found[1]) for name in parameters if (found := _JAX_LAYER.fullmatch(name))]
    return f"Dense_{max(numbers)}" if numbers and "log_std" in parameters else None


def _fold_jax(policy: Any, units: ActionUnits) -> None:
    state = policy.actor_state
    parameters = dict(state.params["params"])
    name = _last_layer(parameters)
    assert name is not None
    # Layers of JAX have their inputs first.
    weights = {
        "action_net.weight": torch.from_numpy(np.array(parameters[name]["kernel"])).T,
        "action_net.bias": torch.from_numpy(np.array(parameters[name]["bias"])),
        "log_std": torch.from_numpy(np.array(parameters["log_std"])),
    }
    units.fold(weights)
    parameters[name] = {
        "kernel": weights["action_net.weight"].T.contiguous().numpy(),
        "bias": weights["action_net.bias"].numpy(),
    }
    parameters["log_std"] = weights["log_std"].numpy()
    policy.actor_state = state.replace(params={**state.params, "params": parameters})
