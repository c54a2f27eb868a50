"""A trained policy as a model that loads with Stable-Baselines3 alone.

A policy of `learn` normalises its observations by `NormalizedFeatures`, a class of this package. Its scales are folded
into every layer that reads the features: W ((x - mean) / scale) + b = (W / scale) x + (b - (W / scale) mean). Only the
clamp of the normalised values is lost.
"""

from __future__ import annotations

import base64
import inspect
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from world_env.atomic_io import atomic_path
from world_env.errors import ExportError
from world_env.export.onnx_graph import Arrays, Comparison
from world_env.export.policy_source import clipped_rows, observations_for_check
from world_env.export.result import ExportResult
from world_env.policies.normalization import NORMALIZED_LIMIT, NormalizedFeatures, normalizers

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from world_env.twin.twin import Twin

_LIBRARIES = ("stable_baselines3", "sb3_contrib")
_OURS = (b"world_env",)
"""Names of packages that must not occur in the file."""
_WEIGHTS = {"Linear": ("weight", "bias"), "LSTM": ("weight_ih_l0", "bias_ih_l0")}
"""Layers into which scales are folded -> their weight of the input (outputs, inputs) and their bias (outputs,)."""
_OWN_CRITICS = (
    "the critics of the policy normalise their layers, and those of the exported model do not: its actions are those "
    "of the policy, its critics are not. Train the critics first if it is to train on"
)
_NORMS = ("BatchRenorm1d",)
"""Layers whose running mean and variance are folded instead: the first ones of CrossQ."""


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
    readers = _readers(network)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    for name, module in network.named_modules(remove_duplicate=False):
        if isinstance(module, NormalizedFeatures):
            del state[f"{name}.mean"], state[f"{name}.scale"]
        elif id(module) in readers:
            _fold(state, name, module, *readers[id(module)])
    return state


def _fold(
    state: dict[str, Tensor], name: str, layer: nn.Module, begin: int, extractor: NormalizedFeatures
) -> None:
    """Fold scales into the weights of one layer, in place. begin: index of the first feature in its input."""
    mean, scale = extractor.mean.double(), extractor.scale.double()
    part = slice(begin, begin + extractor.features_dim)
    kind = type(layer).__name__
    if kind in _NORMS:
        averages, variances = state[f"{name}.ra_mean"], state[f"{name}.ra_var"]
        averages[part] = (averages[part].double() * scale + mean).float()
        epsilon = float(layer.eps)  # type: ignore[arg-type]
        variance = (variances[part].double() + epsilon) * scale.square() - epsilon
        variances[part] = variance.float()
        return
    if kind not in _WEIGHTS or f"{name}.{_WEIGHTS[kind][1]}" not in state:
        raise ExportError(
            f"the layer {name} ({kind}) of the policy reads normalised observations, whose scales can be folded into "
            f"layers with a bias only ({', '.join([*_WEIGHTS, *_NORMS])}): use the format 'onnx'"
        )
    weight, bias = (f"{name}.{each}" for each in _WEIGHTS[kind])
    scaled = state[weight][:, part].double() / scale
    state[bias] = (state[bias].double() - scaled @ mean).float()
    state[weight][:, part] = scaled.float()


def _readers(network: Any) -> dict[int, tuple[int, NormalizedFeatures]]:
    """Id of each layer that reads normalised features -> (index of the first feature in its input, their extractor).

    Found by calling all networks of the policy: a layer reads the features if its input contains their values.
    """
    found: dict[int, tuple[int, NormalizedFeatures]] = {}
    features: list[tuple[NormalizedFeatures, Tensor]] = []

    def remember(module: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(module, NormalizedFeatures)
        features.append((module, output))

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        for extractor, values in features:
            begin = _begin(inputs[0], values)
            if begin is not None:
                found[id(module)] = (begin, extractor)

    hooks = [each.register_forward_hook(remember) for each in normalizers(network)]
    hooks += [
        each.register_forward_pre_hook(look)
        for each in network.modules()
        if next(each.parameters(), None) is not None and next(each.children(), None) is None
    ]
    first = normalizers(network)[0]
    rng = np.random.default_rng(2)
    normalized = rng.uniform(-1.0, 1.0, (5, first.features_dim)).astype(np.float32)
    seen = first.mean + first.scale * torch.as_tensor(normalized, device=first.mean.device)
    try:
        for owner, run in _runs(network):
            features.clear()
            run(seen.reshape(-1, *owner.observation_space.shape))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _begin(inputs: Any, features: Tensor) -> int | None:
    """Index at which the input (..., N) of a layer holds the features (B, F), or None."""
    width = features.shape[-1]
    if not isinstance(inputs, Tensor) or inputs.shape[-1] < width:
        return None
    rows = inputs.reshape(-1, inputs.shape[-1])
    if len(rows) != len(features):
        return None
    for begin in range(rows.shape[1] - width + 1):
        if torch.equal(rows[:, begin : begin + width], features):
            return begin
    return None


# -- Networks ----------------------------------------------------------------------------------------------------------


def _runs(network: Any) -> list[tuple[Any, Any]]:
    """(network, function of observations that computes all of its outputs) of all networks of a policy."""
    from stable_baselines3.common.policies import BaseModel

    runs: list[tuple[Any, Any]] = []
    for each in network.modules():
        if hasattr(each, "lstm_actor"):
            runs.append((each, lambda seen, each=each: _run_recurrent(each, seen)))
        elif hasattr(each, "predict_values"):
            runs.append((each, lambda seen, each=each: _run_actor_critic(each, seen)))
        elif isinstance(each, BaseModel) and _is_critic(each):
            runs.append((each, lambda seen, each=each: each(seen, _actions(each, seen))))
        elif isinstance(each, BaseModel) and each is not network:
            options = {"deterministic": True} if _second_argument(each) == "deterministic" else {}
            runs.append((each, lambda seen, each=each, options=options: each(seen, **options)))
    # Policies without networks of their own, such as that of ARS.
    return runs or [(network, network._predict)]


def _is_critic(module: nn.Module) -> bool:
    return _second_argument(module).startswith("action")


def _second_argument(module: nn.Module) -> str:
    """Name of the argument of a network after the observations: the actions of critics, "deterministic" of actors."""
    names = [*inspect.signature(module.forward).parameters, "", ""]
    return names[1]


def _actions(critic: Any, seen: Any) -> Tensor:
    first = next(iter(seen.values())) if isinstance(seen, dict) else seen
    size = int(np.prod(critic.action_space.shape))
    return torch.linspace(-1.0, 1.0, len(first) * size, device=first.device).reshape(-1, size)


def _run_actor_critic(policy: Any, seen: Any) -> list[Tensor]:
    distribution = policy.get_distribution(seen)
    inner = distribution.distribution
    inner = inner if isinstance(inner, list) else [inner]
    parts = [each.logits if hasattr(each, "logits") else each.mean for each in inner]
    return [policy.predict_values(seen), *parts]


def _run_recurrent(policy: Any, seen: Any) -> list[Tensor]:
    first = next(iter(seen.values())) if isinstance(seen, dict) else seen
    shape = (policy.lstm_actor.num_layers, len(first), policy.lstm_actor.hidden_size)
    memory = (first.new_zeros(shape, dtype=torch.float32),) * 2
    starts = torch.ones(len(first), device=first.device)
    distribution, _ = policy.get_distribution(seen, memory, starts)
    inner = distribution.distribution
    inner = inner if isinstance(inner, list) else [inner]
    parts = [each.logits if hasattr(each, "logits") else each.mean for each in inner]
    return [policy.predict_values(seen, memory, starts), *parts]


@torch.no_grad()
def _results(network: Any, observations: Any, *, critics: bool) -> Arrays:
    """Deterministic actions, and the outputs of all networks of a policy. critics: with those of critics."""
    actions, _ = network.predict(observations, deterministic=True)
    results = {"action": np.asarray(actions)}
    tensors, _ = network.obs_to_tensor(observations)
    for index, (owner, run) in enumerate(_runs(network)):
        if not critics and _is_critic(owner):
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
