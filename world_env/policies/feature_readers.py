"""The layers of a policy that read its normalised observations, and other units for what they read.

They are found by calling all networks of a policy, so that policies of any algorithm and layout are covered.
Letters: B rows, D features.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from world_env.errors import InvalidOptionError
from world_env.policies.normalization import normalizers

_WEIGHTS = {"Linear": ("weight", "bias"), "LSTM": ("weight_ih_l0", "bias_ih_l0")}
"""Layers into which units are folded -> their weight of the input (outputs, inputs) and their bias (outputs,)."""
_NORMS = ("BatchRenorm1d",)
"""Layers whose running mean and variance are folded instead: the first ones of CrossQ."""


def with_other_features(network: Any, gain: Tensor, shift: Tensor) -> dict[str, Tensor]:
    """Return weights with which a policy computes of features x what it computes of gain * x + shift now.

    network: a policy with `NormalizedFeatures`, whose own buffers are left as they are.
    gain, shift: (D,).
    Raises InvalidOptionError if no layer reads the features as they are, or one that does has no bias.
    """
    gain, shift = gain.double(), shift.double()
    readers = _readers(network)
    if not readers:
        raise InvalidOptionError(
            "no layer of the policy reads the normalised observations as they are, so their scales cannot be folded"
        )
    state = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        for name, module in network.named_modules(remove_duplicate=False):
            if id(module) in readers:
                begin = readers[id(module)]
                _fold(state, name, module, slice(begin, begin + len(gain)), gain, shift)
    return state


def _fold(
    state: dict[str, Tensor], name: str, layer: nn.Module, part: slice, gain: Tensor, shift: Tensor
) -> None:
    """Fold units into the weights of one layer, in place. part: place of the features in its input."""
    kind = type(layer).__name__
    if kind in _NORMS:
        averages, variances = state[f"{name}.ra_mean"], state[f"{name}.ra_var"]
        averages[part] = ((averages[part].double() - shift) / gain).float()
        epsilon = float(layer.eps)  # type: ignore[arg-type]
        variance = (variances[part].double() + epsilon) / gain.square() - epsilon
        variances[part] = variance.float()
        return
    if kind not in _WEIGHTS or f"{name}.{_WEIGHTS[kind][1]}" not in state:
        raise InvalidOptionError(
            f"the layer {name} ({kind}) of the policy reads normalised observations, whose scales can be folded into "
            f"layers with a bias only ({', '.join([*_WEIGHTS, *_NORMS])})"
        )
    weight, bias = (f"{name}.{each}" for each in _WEIGHTS[kind])
    before = state[weight][:, part].double()
    state[bias] = (state[bias].double() + before @ shift).float()
    state[weight][:, part] = (before * gain).float()


def _readers(network: Any) -> dict[int, int]:
    """Id of each layer that reads normalised features -> index of the first feature in its input.

    Found by calling all networks of the policy: a layer reads the features if its input contains their values.
    """
    found: dict[int, int] = {}
    features: list[Tensor] = []

    def remember(module: nn.Module, _: Any, output: Tensor) -> None:
        features.append(output)

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        for values in features:
            begin = _begin(inputs[0], values)
            if begin is not None:
                found[id(module)] = begin

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
    training = network.training
    network.set_training_mode(False)  # the running statistics of batches stay as they are
    try:
        for owner, run in runs_of(network):
            features.clear()
            run(seen.reshape(-1, *owner.observation_space.shape))
    finally:
        network.set_training_mode(training)
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


def runs_of(network: Any) -> list[tuple[Any, Any]]:
    """(network, function of observations that computes all of its outputs) of all networks of a policy."""
    from stable_baselines3.common.policies import BaseModel

    runs: list[tuple[Any, Any]] = []
    for each in network.modules():
        if hasattr(each, "lstm_actor"):
            runs.append((each, lambda seen, each=each: _run_recurrent(each, seen)))
        elif hasattr(each, "predict_values"):
            runs.append((each, lambda seen, each=each: _run_actor_critic(each, seen)))
        elif isinstance(each, BaseModel) and is_critic(each):
            runs.append((each, lambda seen, each=each: each(seen, _actions(each, seen))))
        elif isinstance(each, BaseModel) and each is not network:
            options = {"deterministic": True} if _second_argument(each) == "deterministic" else {}
            runs.append((each, lambda seen, each=each, options=options: each(seen, **options)))
    # Policies without networks of their own, such as that of ARS.
    return runs or [(network, network._predict)]


def is_critic(module: nn.Module) -> bool:
    """Return whether a network takes actions after the observations."""
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
