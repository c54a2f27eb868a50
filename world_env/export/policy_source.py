"""What a policy export starts from: the trained model, and observations to compare its actions on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces

from world_env.errors import ExportError, InvalidOptionError
from world_env.policies.function_policy import FunctionPolicy
from world_env.policies.latent_policy import LatentPolicy, encoder_of
from world_env.policies.loading import is_sb3_folder
from world_env.policies.normalization import NORMALIZED_LIMIT, normalizers
from world_env.policies.protocol import Policy
from world_env.policies.saved_policy import check_policy_spaces, load_policy
from world_env.policies.sb3_policy import SB3Policy
from world_env.spaces import is_image
from world_env.twin.twin import Twin

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

_CHECKED = 256
"""Number of observations on which an export is compared with its policy."""
_WIDE = 1e6
"""A Box dimension wider than this has no bounds that observations come near."""


def trained_model(policy: Any) -> Any:
    """Return the trained model of a policy: an algorithm, or the policy of one.

    Raises ExportError for policies that are not trained networks of observations, and what `load_policy` raises.
    """
    if isinstance(policy, str | Path):
        if Path(policy).suffix != ".zip" and not is_sb3_folder(policy):
            raise ExportError(
                f"{policy} holds a policy of another kind than 'sb3': only trained policies of Stable-Baselines3 and "
                "sb3-contrib can be exported"
            )
        policy = load_policy(policy)
    if isinstance(policy, SB3Policy):
        policy = policy.network
    if isinstance(policy, LatentPolicy) or encoder_of(policy) is not None:
        raise ExportError(
            "the policy acts on latent states, which a world model computes from all observations of an episode: such "
            "a policy needs world-env where it acts. To export one, train it with observation_mode='observation'"
        )
    if isinstance(policy, FunctionPolicy) or (
        callable(policy) and not hasattr(policy, "predict") and not isinstance(policy, Policy)
    ):
        raise ExportError(
            "the policy is a Python function, which has no network to export: copy the function itself, or export a "
            "trained policy of Stable-Baselines3 or sb3-contrib"
        )
    if not hasattr(policy, "predict"):
        raise ExportError(
            f"the policy is a {type(policy).__name__}, which has no network to export: expected a trained policy of "
            "Stable-Baselines3 or sb3-contrib"
        )
    _check_network(network_of(policy))
    return policy


def network_of(model: BaseAlgorithm | Any) -> Any:
    """Return the policy of an algorithm, or the policy itself."""
    return getattr(model, "policy", model)


def _check_network(network: Any) -> None:
    from stable_baselines3.common.policies import BasePolicy

    if hasattr(network, "noise_key") or not isinstance(network, BasePolicy):
        raise ExportError(
            f"the policy is a {type(network).__module__}.{type(network).__qualname__}, expected a torch policy of "
            "Stable-Baselines3 or sb3-contrib: policies of SBX use JAX and cannot be exported. Train the policy with "
            "the algorithm of the same name of Stable-Baselines3"
        )


def observations_for_check(
    model: Any, twin: Twin | None, *, clipped: bool
) -> np.ndarray | dict[str, np.ndarray]:
    """Return observations (256, ...) of the policy's space, or a dict of them.

    twin: its data states are the observations, where it has any. None: random observations.
    clipped: whether normalised random observations also lie where the policy clips them.
    Raises SpaceMismatchError for a twin of other spaces.
    """
    network = network_of(model)
    space = network.observation_space
    rng = np.random.default_rng(0)
    if twin is not None:
        check_policy_spaces(model, twin.spec)
        return _as_seen(_of_twin(twin, rng), twin.spec.observation_space, space)
    if isinstance(space, spaces.Dict):
        return {key: _random(part, rng) for key, part in space.spaces.items()}
    found = normalizers(network)
    if not found:
        return _random(space, rng)
    mean, scale = (value.cpu().numpy() for value in (found[0].mean, found[0].scale))
    limit = NORMALIZED_LIMIT * (1.5 if clipped else 0.99)
    normalized = rng.uniform(-limit, limit, (_CHECKED, len(mean)))
    shaped = (mean + scale * normalized).reshape(_CHECKED, *space.shape)
    return np.clip(shaped, space.low, space.high).astype(space.dtype)  # type: ignore[no-any-return]


def clipped_rows(network: Any, observations: Any) -> np.ndarray:
    """Return (B,) bool, True for observations that a normalising features extractor of the policy clips."""
    rows = (
        len(next(iter(observations.values())))
        if isinstance(observations, dict)
        else len(observations)
    )
    clipped = np.zeros(rows, bool)
    for each in normalizers(network):
        mean, scale = (value.cpu().numpy() for value in (each.mean, each.scale))
        flat = np.asarray(observations, np.float64).reshape(rows, -1)
        clipped |= (np.abs((flat - mean) / scale) > NORMALIZED_LIMIT).any(1)
    return clipped


def _of_twin(twin: Twin, rng: np.random.Generator) -> Any:
    context = twin.starts if twin.states is None else twin.states
    rows = np.sort(rng.choice(len(context), min(_CHECKED, len(context)), replace=False))
    return twin.codec.decode_observation(context.select(torch.as_tensor(rows)).last())


def _as_seen(observations: Any, given: spaces.Space[Any], seen: spaces.Space[Any]) -> Any:
    """Observations with images transposed as Stable-Baselines3 transposes them for its convolutions."""
    if isinstance(given, spaces.Dict):
        assert isinstance(seen, spaces.Dict)
        return {
            key: _as_seen(value, given.spaces[key], seen.spaces[key])
            for key, value in observations.items()
        }
    if given.shape != seen.shape and is_image(given):
        return np.ascontiguousarray(np.moveaxis(observations, -1, 1))
    return observations


def _random(space: spaces.Space[Any], rng: np.random.Generator) -> np.ndarray:
    """Random observations (256, ...) of a space."""
    if isinstance(space, spaces.Discrete):
        return rng.integers(space.n, size=_CHECKED) + space.start
    if isinstance(space, spaces.MultiDiscrete):
        return rng.integers(space.nvec, size=(_CHECKED, *space.shape)) + space.start
    if isinstance(space, spaces.MultiBinary):
        return rng.integers(2, size=(_CHECKED, *space.shape)).astype(space.dtype)
    if not isinstance(space, spaces.Box):
        raise InvalidOptionError(
            f"the policy observes {space}, expected Box, Discrete, MultiDiscrete, MultiBinary or a Dict of these"
        )
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = np.isfinite(low) & np.isfinite(high) & (high - low < _WIDE)
    size = (_CHECKED, *space.shape)
    even = rng.uniform(np.where(bounded, low, 0.0), np.where(bounded, high, 1.0), size)
    values = np.where(bounded, even, np.clip(2.0 * rng.standard_normal(size), low, high))
    rounded = values if space.dtype.kind == "f" else np.clip(values.round(), low, high)
    return rounded.astype(space.dtype)
