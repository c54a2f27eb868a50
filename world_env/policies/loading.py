"""Conversion of models, folders, .zip files and functions to policies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from world_env.device import torch_defaults
from world_env.errors import InvalidOptionError
from world_env.lazy import imported
from world_env.policies.function_policy import FunctionPolicy
from world_env.policies.latent_policy import LatentPolicy, encoder_of
from world_env.policies.protocol import Policy
from world_env.policies.saved_policy import check_policy_spaces, load_policy
from world_env.policies.sb3_policy import SB3Policy
from world_env.spec import WorldSpec

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

AnyPolicy: TypeAlias = "Policy | BaseAlgorithm | str | Path | Callable[..., Any]"
"""Argument types of `as_policy`."""
_LOADERS = {"sb3": "world_env.policies.loading:load_sb3"}
"""Kind of a saved policy -> "module:function", called as `load_sb3` is."""


def register_policy_kind(kind: str, loader: str) -> None:
    """Register the loader of a kind of saved policies: folders whose `policy.json` names this kind.

    loader: "module:function" of a function (folder, spec or None, deterministic=True) -> Policy.
    Raises InvalidOptionError if `loader` is of another form.
    """
    if loader.count(":") != 1:
        raise InvalidOptionError(
            f"the loader of policies of kind {kind!r} is {loader!r}, expected 'module:function'"
        )
    _LOADERS[kind] = loader


@torch_defaults()
def as_policy(
    policy: AnyPolicy,
    spec: WorldSpec | None = None,
    *,
    deterministic: bool = True,
) -> Policy:
    """Convert a model, a path or a function to a `Policy`.

    policy: a `Policy` (returned as it is), a model of Stable-Baselines3, sb3-contrib or SBX, the folder of a saved
        policy, the .zip of such a model, or a function from batched observations to batched actions.
    spec: spec whose spaces the policy must have; None: not checked.
    deterministic: whether a trained policy takes the mode of its action distribution instead of a sample.
    Raises SpaceMismatchError for a policy with other spaces, InvalidOptionError for anything else, and what
    `load_policy` raises.
    """
    if isinstance(policy, Policy):
        return policy
    if isinstance(policy, str | Path):
        kind = _kind(Path(policy))
        if kind not in _LOADERS:
            raise InvalidOptionError(
                f"{policy} holds a policy of kind {kind!r}, expected one of {', '.join(_LOADERS)}: import the package "
                "that registers this kind"
            )
        load: Callable[..., Policy] = imported(_LOADERS[kind])
        return load(policy, spec, deterministic=deterministic)
    if hasattr(policy, "predict"):
        if spec is not None:
            check_policy_spaces(policy, spec)
        return trained_policy(policy, deterministic=deterministic)
    if callable(policy):
        return FunctionPolicy(policy)
    raise InvalidOptionError(
        f"policy is {type(policy).__name__}, expected a Stable-Baselines3 model, its folder or .zip, a Policy, or a "
        "function from batched observations to batched actions"
    )


def load_sb3(folder: str | Path, spec: WorldSpec | None, *, deterministic: bool = True) -> Policy:
    """Load a policy of Stable-Baselines3 from its folder or .zip."""
    return trained_policy(load_policy(folder, expect=spec), deterministic=deterministic)


def trained_policy(model: BaseAlgorithm | Any, *, deterministic: bool = True) -> Policy:
    """Return the policy of a trained model, with its encoder if it acts on latents."""
    policy, encoder = SB3Policy(model, deterministic=deterministic), encoder_of(model)
    return policy if encoder is None else LatentPolicy(policy, encoder)


def is_sb3_folder(path: str | Path) -> bool:
    """Whether a path is the folder of a policy of Stable-Baselines3, and no .zip or policy of another kind."""
    return Path(path).suffix != ".zip" and _kind(Path(path)) == "sb3"


def _kind(folder: Path) -> str:
    """Kind of a saved policy; that of Stable-Baselines3 where it is not named, whose loader reports damage."""
    try:
        return str(json.loads((folder / "policy.json").read_text(encoding="utf-8"))["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        return "sb3"
