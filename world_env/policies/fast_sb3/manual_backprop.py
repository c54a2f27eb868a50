"""Small networks and action distributions with hand-written gradients, which avoid the overhead of autograd.

Parameters and gradients are views into flat tensors. Each object stores the activations of its last `forward`, and
`backward` uses them. Call both under `torch.no_grad()`.

Letters: B transitions of a minibatch, F features, A action dimensions or choices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from world_env.errors import StageError
from world_env.policies.normalization import LAYER_NORM_EPSILON, LayerNormReLU, Scale

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_TANH_BACKWARD = torch.ops.aten.tanh_backward.grad_input
_RELU_BACKWARD = torch.ops.aten.threshold_backward.grad_input
_SILU_BACKWARD = torch.ops.aten.silu_backward.grad_input


def _tanh(x: Tensor) -> Tensor:
    # Twice as fast as torch.tanh on CPUs, with the precision of float32 near 1.
    return x.mul_(2.0).sigmoid_().mul_(2.0).sub_(1.0)


def _layer_norm_relu(x: Tensor) -> Tensor:
    return torch.relu_(torch.native_layer_norm(x, x.shape[-1:], None, None, LAYER_NORM_EPSILON)[0])


def _layer_norm_relu_backward(gradient: Tensor, x: Tensor, y: Tensor) -> Tensor:
    shape = x.shape[-1:]
    _, mean, scale = torch.native_layer_norm(x, shape, None, None, LAYER_NORM_EPSILON)
    gradient = _RELU_BACKWARD(gradient, y, 0, grad_input=gradient)
    wanted = [True, False, False]
    return torch.ops.aten.native_layer_norm_backward(
        gradient, x, shape, mean, scale, None, None, wanted
    )[0]


class _Activation(NamedTuple):
    """forward: input -> output, maybe in place. backward: output's gradient, input, output -> input's gradient."""

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor], Tensor]


ACTIVATIONS = {
    nn.Tanh: _Activation(_tanh, lambda g, x, y: _TANH_BACKWARD(g, y, grad_input=g)),
    nn.ReLU: _Activation(torch.relu_, lambda g, x, y: _RELU_BACKWARD(g, y, 0, grad_input=g)),
    LayerNormReLU: _Activation(_layer_norm_relu, _layer_norm_relu_backward),
    nn.SiLU: _Activation(nn.functional.silu, lambda g, x, y: _SILU_BACKWARD(g, x, grad_input=g)),
}


def _activation(module: nn.Module) -> _Activation:
    if not isinstance(module, Scale):
        return ACTIVATIONS[type(module)]
    factor = module.factor
    return _Activation(lambda x: x * factor, lambda g, x, y: g * factor)


@dataclass(frozen=True)
class _Linear:
    """Linear layer: views of the flat parameters and of their gradient."""

    weight: Tensor
    bias: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs) to (B, outputs)."""
        return torch.addmm(self.bias, x, self.weight.t())

    def backward(self, gradient: Tensor, x: Tensor, *, add: bool) -> None:
        """Write the gradient of the parameters, given the gradient of the outputs and the inputs x.

        add: add it to the gradient that is there.
        """
        if add:
            self.weight_gradient.addmm_(gradient.t(), x)
            self.bias_gradient.add_(gradient.sum(0))
            return
        torch.mm(gradient.t(), x, out=self.weight_gradient)
        torch.sum(gradient, 0, out=self.bias_gradient)


class Network:
    """Linear layers and activations with forward and backward pass."""

    def __init__(self, modules: list[nn.Module], views: dict[Any, tuple[Tensor, Tensor]]) -> None:
        self._layers: list[_Linear | _Activation] = []
        for module in modules:
            if isinstance(module, nn.Linear):
                (weight, weight_gradient), (bias, bias_gradient) = (
                    views[module.weight],
                    views[module.bias],
                )
                self._layers.append(_Linear(weight, bias, weight_gradient, bias_gradient))
            else:
                self._layers.append(_activation(module))
        self.activations: list[Tensor] = []
        """Inputs and outputs of the last `forward`. Restore earlier ones to run their `backward`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F) to (B, outputs)."""
        self.activations = [x]
        for layer in self._layers:
            x = layer.forward(x)
            self.activations.append(x)
        return x

    def backward(self, gradient: Tensor, *, inputs: bool = False, add: bool = False) -> Tensor:
        """Write the gradient of the parameters, given the gradient of the output (B, outputs), which is overwritten.

        inputs: whether to compute and return the gradient of the inputs (B, F) too. add: add the gradient of the
        parameters to the one that is there.
        """
        for place in reversed(range(len(self._layers))):
            layer, (x, y) = self._layers[place], self.activations[place : place + 2]
            if isinstance(layer, _Activation):
                gradient = layer.backward(gradient, x, y)
                continue
            layer.backward(gradient, x, add=add)
            if place or inputs:
                gradient = gradient.mm(layer.weight)
        return gradient

    def input_gradient(self, gradient: Tensor) -> Tensor:
        """Return the gradient of the inputs (B, F), given that of the output (B, outputs), which is overwritten."""
        for place in reversed(range(len(self._layers))):
            layer, (x, y) = self._layers[place], self.activations[place : place + 2]
            if isinstance(layer, _Activation):
                gradient = layer.backward(gradient, x, y)
            else:
                gradient = gradient.mm(layer.weight)
        return gradient


PLAIN_ADAM_EXPECTED = (
    "expected float32 parameters on the CPU and torch.optim.Adam with one parameter group, without weight_decay, "
    "amsgrad or maximize"
)
"""Reason to log where `plain_adam` is False."""


_SUPPORTED = (nn.Linear, Scale, *ACTIVATIONS)


def unsupported_layers(layers: Sequence[nn.Module]) -> str | None:
    """Return which layers `Network` does not support, or None if it supports all."""
    names = sorted({type(each).__name__ for each in layers if type(each) not in _SUPPORTED})
    return f"layers {', '.join(names)} are not supported" if names else None


def plain_adam(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> bool:
    """Return whether `FlatParameters` implements this optimizer: Adam with one group, float32, on the CPU."""
    groups = optimizer.param_groups
    return (
        type(optimizer) is torch.optim.Adam
        and len(groups) == 1
        and len(groups[0]["params"]) == len(parameters)
        and not (groups[0]["amsgrad"] or groups[0]["maximize"] or groups[0]["weight_decay"])
        and all(
            p.requires_grad and p.device.type == "cpu" and p.dtype is torch.float32
            for p in parameters
        )
    )


class FlatParameters:
    """Copies of parameters and of their Adam moments, in one tensor each. `keep` copies them back.

    optimizer: one that `plain_adam` accepts; None for target networks.
    """

    def __init__(
        self, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer | None
    ) -> None:
        self._parameters, self._optimizer = parameters, optimizer
        self.flat = torch.cat([p.detach().flatten() for p in parameters])
        self.gradient = torch.zeros_like(self.flat)
        self._moments = [torch.zeros_like(self.flat) for _ in range(2)]
        self._steps = torch.zeros(())
        state = {} if optimizer is None else optimizer.state
        for place, parameter in enumerate(parameters):
            if parameter in state:
                stored = state[parameter]
                for moment, name in zip(self._moments, ("exp_avg", "exp_avg_sq"), strict=True):
                    self._parts(moment)[place].copy_(stored[name])
                self._steps = stored["step"].clone()

    def views(self) -> dict[Any, tuple[Tensor, Tensor]]:
        """Return parameter -> (value, gradient), views of the flat tensors."""
        pairs = zip(self._parts(self.flat), self._parts(self.gradient), strict=True)
        return dict(zip(self._parameters, pairs, strict=True))

    def descend(self) -> None:
        """Take one Adam step for all parameters."""
        assert self._optimizer is not None
        group = self._optimizer.param_groups[0]
        adam(
            [self.flat],
            [self.gradient],
            [self._moments[0]],
            [self._moments[1]],
            [],
            [self._steps],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )

    def share(self) -> None:
        """Make parameters and Adam moments views of the flat tensors, so that every step is a step of theirs."""
        parts = zip(self._parts(self.flat), *map(self._parts, self._moments), strict=True)
        for parameter, (value, first, second) in zip(self._parameters, parts, strict=True):
            parameter.data = value
            if self._optimizer is not None:
                self._optimizer.state[parameter] = {
                    "step": self._steps,
                    "exp_avg": first,
                    "exp_avg_sq": second,
                }

    def keep(self, algorithm: str) -> None:
        """Copy parameters and moments back. Raises StageError if the parameters are NaN or infinite.

        algorithm: name for the error.
        """
        if not self.flat.isfinite().all():
            raise StageError(
                f"the parameters of {algorithm} became NaN or infinite: check rewards and observations for NaN or "
                "infinite values, or lower learning_rate"
            )
        parts = zip(self._parts(self.flat), *map(self._parts, self._moments), strict=True)
        for parameter, (value, first, second) in zip(self._parameters, parts, strict=True):
            parameter.copy_(value)
            if self._optimizer is not None:
                self._optimizer.state[parameter] = {
                    "step": self._steps.clone(),
                    "exp_avg": first.clone(),
                    "exp_avg_sq": second.clone(),
                }

    def _parts(self, flat: Tensor) -> list[Tensor]:
        parts = flat.split([p.numel() for p in self._parameters])
        return [part.view(p.shape) for part, p in zip(parts, self._parameters, strict=True)]


class GaussianHead:
    """Independent normal actions with one log standard deviation (A,) for all states.

    entropy_weight: weight of the mean entropy, which is subtracted from the loss.
    """

    def __init__(self, log_std: Tensor, gradient: Tensor, entropy_weight: float) -> None:
        self._log_std, self._gradient, self._weight = log_std, gradient, entropy_weight
        self._z = self._squares = self._inverse = log_std

    def forward(self, mean: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return log probabilities and entropies (B,) for means and actions (B, A)."""
        self._inverse = (-self._log_std).exp()
        self._z = (actions - mean).mul_(self._inverse)
        self._squares = self._z * self._z
        total = self._log_std.sum() + len(self._log_std) * HALF_LOG_2PI
        entropy = (total + 0.5 * len(self._log_std)).expand(len(mean))
        return self._squares.sum(1).mul_(-0.5).sub_(total), entropy

    def backward(self, slope: Tensor) -> Tensor:
        """Map the gradient of the log probabilities (B,) to that of the means (B, A); write that of `log_std`."""
        column = slope.unsqueeze(1)
        torch.sum((self._squares - 1.0).mul_(column), 0, out=self._gradient)
        self._gradient.sub_(self._weight)
        return self._z.mul_(column).mul_(self._inverse)


class CategoricalHead:
    """Categorical action with A choices. entropy_weight: weight of the mean entropy, subtracted from the loss."""

    def __init__(self, entropy_weight: float) -> None:
        self._weight = entropy_weight
        self._log_probs = self._probs = self._chosen = self._entropy = torch.empty(0)

    def forward(self, logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return log probabilities and entropies (B,) for logits (B, A) and actions (B,) int64."""
        self._log_probs, self._chosen = logits.log_softmax(1), actions.unsqueeze(1)
        self._probs = self._log_probs.exp()
        self._entropy = (self._probs * self._log_probs).sum(1).neg_()
        return self._log_probs.gather(1, self._chosen).squeeze(1), self._entropy

    def backward(self, slope: Tensor) -> Tensor:
        """Map the gradient of the log probabilities (B,) to that of the logits (B, A)."""
        column = slope.unsqueeze(1)
        gradient = (self._probs * -column).scatter_add_(1, self._chosen, column)
        if self._weight:
            towards = self._probs * (self._log_probs + self._entropy.unsqueeze(1))
            gradient.add_(towards, alpha=self._weight / len(slope))
        return gradient
