"""Small networks and action distributions with written-out gradients: what autograd adds per minibatch is not paid.

Parameters and gradients are views into flat tensors. Each object remembers its last `forward`; `backward` belongs to
that one. Call both without autograd.

Letters: B rows of a minibatch, F features, A action dimensions or choices.
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

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_TANH_BACKWARD = torch.ops.aten.tanh_backward.grad_input
_RELU_BACKWARD = torch.ops.aten.threshold_backward.grad_input
_SILU_BACKWARD = torch.ops.aten.silu_backward.grad_input


def _tanh(x: Tensor) -> Tensor:
    # Twice as fast as torch.tanh on CPUs and as exact as a float32 near 1 can be.
    return x.mul_(2.0).sigmoid_().mul_(2.0).sub_(1.0)


class _Activation(NamedTuple):
    """forward: output, in the input's place or not. backward: output's gradient, input, output -> input's gradient."""

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor], Tensor]


ACTIVATIONS = {
    nn.Tanh: _Activation(_tanh, lambda g, x, y: _TANH_BACKWARD(g, y, grad_input=g)),
    nn.ReLU: _Activation(torch.relu_, lambda g, x, y: _RELU_BACKWARD(g, y, 0, grad_input=g)),
    nn.SiLU: _Activation(nn.functional.silu, lambda g, x, y: _SILU_BACKWARD(g, x, grad_input=g)),
}


@dataclass(frozen=True)
class _Linear:
    """A layer as views of the flat parameters and of their gradient."""

    weight: Tensor
    bias: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) to (B, outputs)."""
        return torch.addmm(self.bias, x, self.weight.t())

    def backward(self, gradient: Tensor, x: Tensor) -> None:
        """Write the parameters' gradient, given that of the outputs and the inputs x."""
        torch.mm(gradient.t(), x, out=self.weight_gradient)
        torch.sum(gradient, 0, out=self.bias_gradient)


class Network:
    """Linear layers and activations, forth and back."""

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
                self._layers.append(ACTIVATIONS[type(module)])
        self.seen: list[Tensor] = []
        """Inputs and outputs of the last `forward`; put back, an earlier one's, `backward` belongs to that one."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, F) to (B, outputs)."""
        self.seen = [x]
        for layer in self._layers:
            x = layer.forward(x)
            self.seen.append(x)
        return x

    def backward(self, gradient: Tensor, *, inputs: bool = False) -> Tensor:
        """Write the parameters' gradient, given that of the last output (B, outputs), which is overwritten.

        inputs: whether to return the inputs' gradient (B, F) too, which most do not need.
        """
        for place in reversed(range(len(self._layers))):
            layer, (x, y) = self._layers[place], self.seen[place : place + 2]
            if isinstance(layer, _Activation):
                gradient = layer.backward(gradient, x, y)
                continue
            layer.backward(gradient, x)
            if place or inputs:
                gradient = gradient.mm(layer.weight)
        return gradient

    def input_gradient(self, gradient: Tensor) -> Tensor:
        """The inputs' gradient (B, F) alone, given that of the last output (B, outputs), which is overwritten."""
        for place in reversed(range(len(self._layers))):
            layer, (x, y) = self._layers[place], self.seen[place : place + 2]
            if isinstance(layer, _Activation):
                gradient = layer.backward(gradient, x, y)
            else:
                gradient = gradient.mm(layer.weight)
        return gradient


def plain_adam(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> bool:
    """Whether `FlatParameters` does what this optimiser does: Adam on all of them alike, float32, on the CPU."""
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
    """Parameters, and Adam's moments of them, copied into one tensor each; `keep` copies them back.

    optimizer: what `plain_adam` accepts; None for parameters that only follow others.
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
                held = state[parameter]
                for moment, name in zip(self._moments, ("exp_avg", "exp_avg_sq"), strict=True):
                    self._parts(moment)[place].copy_(held[name])
                self._steps = held["step"].clone()

    def views(self) -> dict[Any, tuple[Tensor, Tensor]]:
        """Parameter -> (its value, its gradient), parts of the flat ones."""
        pairs = zip(self._parts(self.flat), self._parts(self.gradient), strict=True)
        return dict(zip(self._parameters, pairs, strict=True))

    def descend(self) -> None:
        """One step of Adam, all parameters at once."""
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

    def keep(self, algorithm: str) -> None:
        """Hand parameters and moments back.

        Raises StageError, which names the algorithm, where they are no longer finite.
        """
        if not self.flat.isfinite().all():
            raise StageError(
                f"{algorithm}'s parameters are no longer finite: look for rewards or observations that are not, or "
                "lower the learning rate"
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
    """Independent normal actions, their log deviation (A,) a parameter of its own.

    entropy_weight: of the mean entropy in the loss, which it lowers.
    """

    def __init__(self, log_std: Tensor, gradient: Tensor, entropy_weight: float) -> None:
        self._log_std, self._gradient, self._weight = log_std, gradient, entropy_weight
        self._z = self._squares = self._inverse = log_std

    def forward(self, mean: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log probability and entropy of each row (B,), for means and actions (B, A)."""
        self._inverse = (-self._log_std).exp()
        self._z = (actions - mean).mul_(self._inverse)
        self._squares = self._z * self._z
        total = self._log_std.sum() + len(self._log_std) * _HALF_LOG_2PI
        entropy = (total + 0.5 * len(self._log_std)).expand(len(mean))
        return self._squares.sum(1).mul_(-0.5).sub_(total), entropy

    def backward(self, slope: Tensor) -> Tensor:
        """The loss's slope in each log probability (B,) to that in each mean (B, A); writes the log deviation's."""
        column = slope.unsqueeze(1)
        torch.sum((self._squares - 1.0).mul_(column), 0, out=self._gradient)
        self._gradient.sub_(self._weight)
        return self._z.mul_(column).mul_(self._inverse)


class CategoricalHead:
    """One of A choices. entropy_weight: of the mean entropy in the loss, which it lowers."""

    def __init__(self, entropy_weight: float) -> None:
        self._weight = entropy_weight
        self._log_probs = self._probs = self._chosen = self._entropy = torch.empty(0)

    def forward(self, logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log probability and entropy of each row (B,), for logits (B, A) and actions (B,) int64."""
        self._log_probs, self._chosen = logits.log_softmax(1), actions.unsqueeze(1)
        self._probs = self._log_probs.exp()
        self._entropy = (self._probs * self._log_probs).sum(1).neg_()
        return self._log_probs.gather(1, self._chosen).squeeze(1), self._entropy

    def backward(self, slope: Tensor) -> Tensor:
        """The loss's slope in each log probability (B,) to that in each logit (B, A)."""
        column = slope.unsqueeze(1)
        gradient = (self._probs * -column).scatter_add_(1, self._chosen, column)
        if self._weight:
            towards = self._probs * (self._log_probs + self._entropy.unsqueeze(1))
            gradient.add_(towards, alpha=self._weight / len(slope))
        return gradient
