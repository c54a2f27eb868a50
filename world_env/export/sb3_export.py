"""A trained policy as a model that loads with Stable-Baselines3 alone.

A policy of `learn` normalises its observations by `NormalizedFeatures`, a class of this package. Its scales are folded
into every layer that reads the features: W ((x - mean) / scale) + b = (W / scale) x + (b - (W / scale) mean). Only the
clamp of the normalised values is lost.
"""

from __future__ import annotations

import base64
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from world_env.atomic_io import atomic_path
from world_env.errors import ExportError, InvalidOptionError
from world_env.export.onnx_graph import Arrays, Comparison
from world_env.export.policy_source import clipped_rows, observations_for_check
from world_env.export.result import ExportResult
from world_env.policies.feature_readers import is_critic, runs_of, with_other_features
from world_env.policies.normalization import NORMALIZED_LIMIT, NormalizedFeatures, normalizers

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from world_env.twin.twin import Twin

_LIBRARIES = ("stable_baselines3", "sb3_contrib")
_OURS = (b"world_env",)
"""Names of packages that must not occur in the file."""
_OWN_CRITICS = (
    "the critics of the policy normalise their layers, and those of the exported model do not: its actions are those "
    "of the policy, its critics are not. Train the critics first if it is to train on"
)


def export_sb3(model: BaseAlgorithm | Any, target: Path, twin: Twin | None) -> ExportResult:
    """Export a trained algorithm as a .zip without objects of this package. See `export_policy`."""
    if not hasattr(model, "policy_class"):
        raise ExportError(
            f"the format 'sb3' stores an algorithm, got the policy of one ({type(model).__name__}): pass the "
            "algorithm, its folder or its .zip"
        )
    network = model.policy
    network.set_training_mode(False)
    own = hasattr(network, "value_scale")
    extractor = (model.policy_kwargs or {}).get("features_extractor_class")
    if normalizers(network) and extractor is not NormalizedFeatures:
        raise ExportError(
            f"the features extractor {getattr(extractor, '__name__', extractor)} contains NormalizedFeatures, whose "
            "scales can be folded only if it is the whole extractor: use the format 'onnx'"
        )
    observations = observations_for_check(model, twin, clipped=False)
    clipped = clipped_rows(network, observations)
    if clipped.all() and len(clipped):
        raise ExportError(
            f"the policy clips a normalised observation at {NORMALIZED_LIMIT:g} scales in every data state of the "
            "twin, and a model of the format 'sb3' does not clip: use the format 'onnx', or a twin of the environment "
            "that the policy was trained for"
        )
    with torch.no_grad():
        plain = _plain(model)
    with atomic_path(target) as temporary:
        _save(plain, temporary)
        loaded = type(plain).load(temporary, device="cpu")
        loaded.policy.set_training_mode(False)
        inside = _rows(observations, ~clipped)
        comparison = Comparison()
        compared = [_results(each, inside, critics=not own) for each in (loaded.policy, network)]
        comparison.add(*compared)
        error = comparison.check(
            "The usual cause is a mean that is many scales from 0, which float32 cannot fold into a layer: use the "
            "format 'onnx'."
        )
    normalized = bool(normalizers(network))
    notes = [_OWN_CRITICS] if own else []
    share = float(clipped.mean()) if normalized and twin is not None else None
    return ExportResult(
        files=(target,),
        checked=comparison.rows,
        max_error=error,
        outside_clamp=share,
        notes=tuple([_clamp_note(share), *notes] if normalized else notes),
    )


def _clamp_note(share: float | None) -> str:
    text = (
        f"the policy clips normalised observations to [-{NORMALIZED_LIMIT:g}, {NORMALIZED_LIMIT:g}], the exported "
        "model does not: outside of this range their actions differ"
    )
    return text if share is None else f"{text} ({share:.2%} of the twin's data states)"


def _plain(model: Any) -> Any:
    """The algorithm as one of its library, without normalising features extractor."""
    kind = _plain_class(type(model), "algorithm")
    excluded = set(model._excluded_save_params())
    states, variables = model._get_torch_save_params()
    excluded |= {name.partition(".")[0] for name in (*states, *variables)}
    policy_class = _plain_class(model.policy_class, "policy")
    plain = kind(policy_class, env=None, device="cpu", _init_setup_model=False)
    # As `load` of Stable-Baselines3.
    plain.__dict__.update({k: v for k, v in model.__dict__.items() if k not in excluded})
    plain.policy_class = policy_class
    normalized = bool(normalizers(model.policy))
    # Without the extractor's arguments, policies on flat observations flatten them.
    extractor = ("features_extractor_class", "features_extractor_kwargs") if normalized else ()
    plain.policy_kwargs = {
        name: value
        for name, value in (model.policy_kwargs or {}).items()
        if name not in (*extractor, "value_scale")
    }
    plain._setup_model()
    if normalized:
        # The state of the optimizer belongs to the weights before.
        plain.policy.load_state_dict(_folded(model.policy))
    else:
        plain.set_parameters(model.get_parameters(), exact_match=True, device="cpu")
    for name in variables:
        parts = name.split(".")
        ours, theirs = plain, model
        for part in parts:
            ours, theirs = getattr(ours, part), getattr(theirs, part)
        if theirs is not None:
            ours.data.copy_(theirs.data)
    return plain


def _plain_class(kind: type, noun: str) -> Any:
    for each in kind.__mro__:
        if each.__module__.partition(".")[0] in _LIBRARIES:
            return each
    raise ExportError(
        f"the {noun} {kind.__module__}.{kind.__qualname__} extends no class of Stable-Baselines3 or sb3-contrib, so it "
        "does not load with them alone: use the format 'onnx'"
    )


# -- Folding -----------------------------------------------------------------------------------------------------------


def _folded(network: Any) -> dict[str, Tensor]:
    """Weights of a policy that reads plain observations, and equals `network` where that one does not clip."""
    features = normalizers(network)[0]
    scale = features.scale.double()
    try:
        state = with_other_features(network, 1.0 / scale, -features.mean.double() / scale)
    except InvalidOptionError as error:
        raise ExportError(f"{error}: use the format 'onnx'") from error
    for name, module in network.named_modules(remove_duplicate=False):
        if isinstance(module, NormalizedFeatures):
            del state[f"{name}.mean"], state[f"{name}.scale"]
    return state


@torch.no_grad()
def _results(network: Any, observations: Any, *, critics: bool) -> Arrays:
    """Deterministic actions, and the outputs of all networks of a policy. critics: with those of critics."""
    actions, _ = network.predict(observations, deterministic=True)
    results = {"action": np.asarray(actions)}
    tensors, _ = network.obs_to_tensor(observations)
    for index, (owner, run) in enumerate(runs_of(network)):
        if not critics and is_critic(owner):
            continue
        outputs = run(tensors)
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        for place, output in enumerate(outputs):
            name = f"{type(owner).__name__} {index}, output {place}"
            results[name] = output.cpu().numpy()
    return results


# -- File --------------------------------------------------------------------------------------------------------------


def _save(plain: Any, path: Path) -> None:
    """Save an algorithm without attributes that hold objects of this package."""
    plain.save(path)
    ours = _entries_of_ours(path)
    if not ours:
        return
    needed = ours & {"policy_class", "policy_kwargs", "observation_space", "action_space"}
    if needed:
        raise ExportError(
            f"{', '.join(sorted(needed))} of the policy holds objects of world-env, so the policy does not load "
            "without it: use the format 'onnx'"
        )
    plain.save(path, exclude=ours)


def _entries_of_ours(path: Path) -> set[str]:
    """Names of the attributes in a .zip whose pickles name this package."""
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    return {
        name
        for name, value in data.items()
        if isinstance(value, dict)
        and any(each in base64.b64decode(value.get(":serialized:", "")) for each in _OURS)
    }


def _rows(observations: Any, mask: np.ndarray) -> Any:
    if isinstance(observations, dict):
        return {key: value[mask] for key, value in observations.items()}
    return observations[mask]
