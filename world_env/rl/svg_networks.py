"""Actor and critics of SAC for SVG: their gradient steps, and their calls inside a differentiable rollout.

`FlatNetworks` has gradients written by hand, in few operations on large tensors, for the networks of SAC's `MlpPolicy`
on a CPU. `PlainNetworks` is the same in autograd, for all others.
Letters: B rows, A action dimensions, F features.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from world_env.policies.fast_sb3.manual_backprop import HALF_LOG_2PI, FlatParameters, Network
from world_env.policies.fast_sb3.sac import covers, gaussian

LOSS_SCALE = 10.0
"""Weight of the losses: with Adam, it only sets from which size on a gradient is clipped."""
_MAX_GRADIENT_NORM = 10.0


class PlainNetworks:
    """Actor and critics of an SAC model, with the gradients of autograd."""

    def __init__(self, model: Any) -> None:
        self._actor, self._critic, self._target = model.actor, model.critic, model.critic_target

    def act(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Draw actions (B, A) in [-1, 1] for observations (B, *O), and their log-probabilities (B,)."""
        mean, log_std, _ = self._actor.get_action_dist_params(observation)
        noise = torch.randn_like(mean)
        free = mean + log_std.exp() * noise
        return free.tanh(), _log_density(noise, log_std, free)

    def value(self, observation: Tensor, action: Tensor) -> Tensor:
        """Mean of the critics (B,), with gradients with respect to observation and action only."""
        self._critic.requires_grad_(False)
        values = torch.stack(self._critic(observation, action)).mean(0)[:, 0]
        self._critic.requires_grad_(True)
        return values

    def least_target(self, observation: Tensor, action: Tensor) -> Tensor:
        """Smallest of the target critics (B,), without gradients."""
        with torch.no_grad():
            return torch.stack(self._target(observation, action)).amin(0)[:, 0]

    def step_critics(
        self, observation: Tensor, action: Tensor, target: Tensor, scale: float
    ) -> tuple[Tensor, bool]:
        """Gradient step of the critics on the Huber loss of values in units of `scale`.

        Returns (loss, whether the gradient was finite; otherwise no step is taken).
        """
        values = torch.stack(self._critic(observation, action.detach()))[..., 0]
        loss = functional.smooth_l1_loss(values / scale, (target / scale).expand_as(values))
        return loss.detach(), self._step(self._critic, LOSS_SCALE * loss)

    def average_target(self, share: float) -> None:
        """Move the target critics towards the critics by a share in [0, 1]."""
        targets, own = (list(each.parameters()) for each in (self._target, self._critic))
        with torch.no_grad():
            torch._foreach_lerp_(targets, own, share)

    def step_actor(self, loss: Tensor) -> bool:
        """Gradient step of the actor; False, and no step, if the gradient is not finite."""
        return self._step(self._actor, loss)

    def _step(self, network: Any, loss: Tensor) -> bool:
        network.optimizer.zero_grad()
        parameters = [*network.parameters()]
        loss.backward(inputs=parameters)
        norm = get_total_norm([each.grad for each in parameters if each.grad is not None])
        if not torch.isfinite(norm):
            return False
        if norm > _MAX_GRADIENT_NORM:
            clip_grads_with_norm_(parameters, _MAX_GRADIENT_NORM, norm)
        network.optimizer.step()
        return True


class FlatNetworks:
    """As `PlainNetworks`, with gradients written by hand. Parameters and Adam moments become views of flat tensors."""

    def __init__(self, model: Any) -> None:
        actor, critic, target = model.actor, model.critic, model.critic_target
        self._extractor = actor.features_extractor
        self._anchor = torch.zeros((), requires_grad=True)
        self._flat_actor = FlatParameters(list(actor.parameters()), actor.optimizer)
        self._flat_critic = FlatParameters(list(critic.parameters()), critic.optimizer)
        self._flat_target = FlatParameters(list(target.parameters()), None)
        for flat in (self._flat_actor, self._flat_critic, self._flat_target):
            flat.share()
        views = self._flat_actor.views()
        self._body = Network([*actor.latent_pi], views)
        self._heads = [Network([head], views) for head in (actor.mu, actor.log_std)]
        views = self._flat_critic.views()
        self._critics = [Network([*each], views) for each in critic.q_networks]
        views = self._flat_target.views()
        self._targets = [Network([*each], views) for each in target.q_networks]

    def act(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """As `PlainNetworks.act`."""
        action, log_prob = _Act.apply(
            self._features(observation), self._anchor, self._body, self._heads
        )
        return action, log_prob

    def value(self, observation: Tensor, action: Tensor) -> Tensor:
        """As `PlainNetworks.value`."""
        value: Tensor = _Value.apply(self._inputs(observation, action), self._critics)
        return value

    def least_target(self, observation: Tensor, action: Tensor) -> Tensor:
        """As `PlainNetworks.least_target`."""
        with torch.no_grad():
            inputs = self._inputs(observation, action)
            return torch.cat([each.forward(inputs) for each in self._targets], 1).amin(1)

    def step_critics(
        self, observation: Tensor, action: Tensor, target: Tensor, scale: float
    ) -> tuple[Tensor, bool]:
        """As `PlainNetworks.step_critics`."""
        with torch.no_grad():
            inputs, loss = self._inputs(observation, action), torch.zeros(())
            for critic in self._critics:
                error = (critic.forward(inputs)[:, 0] - target) / scale
                loss = loss + functional.huber_loss(error, torch.zeros_like(error))
                # Of the mean loss over rows and critics.
                slope = error.clamp(-1.0, 1.0) * (
                    LOSS_SCALE / scale / error.numel() / len(self._critics)
                )
                critic.backward(slope[:, None])
            return loss / len(self._critics), _descended(self._flat_critic)

    def average_target(self, share: float) -> None:
        """As `PlainNetworks.average_target`."""
        self._flat_target.flat.lerp_(self._flat_critic.flat, share)

    def step_actor(self, loss: Tensor) -> bool:
        """As `PlainNetworks.step_actor`."""
        self._flat_actor.gradient.zero_()
        loss.backward()
        return _descended(self._flat_actor)

    def _inputs(self, observation: Tensor, action: Tensor) -> Tensor:
        return torch.cat([self._features(observation), action], 1)

    def _features(self, observation: Tensor) -> Tensor:
        features: Tensor = self._extractor(observation.float())
        return features


def networks_of(model: Any) -> PlainNetworks | FlatNetworks:
    """Return the faster of both for an SAC model."""
    return FlatNetworks(model) if covers(model) else PlainNetworks(model)


def _log_density(noise: Tensor, log_std: Tensor, free: Tensor) -> Tensor:
    """Log-probability (B,) of actions tanh(u), from u = mean + std * noise, each (B, A).

    Stable-Baselines3 takes log(1 - tanh(u)^2 + 1e-6), which has no slope for |u| > 7. Exact gradients through a model
    can take u there, and nothing would bring it back.
    """
    # log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u))
    squash = 2.0 * (math.log(2.0) - free - functional.softplus(-2.0 * free))
    return (-0.5 * noise * noise - log_std - HALF_LOG_2PI - squash).sum(1)


def _descended(flat: FlatParameters) -> bool:
    """Take a gradient step of at most the largest norm; False, and no step, if the gradient is not finite."""
    norm = float(flat.gradient.norm())
    if not math.isfinite(norm):
        return False
    if norm > _MAX_GRADIENT_NORM:
        flat.gradient.mul_(_MAX_GRADIENT_NORM / norm)
    flat.descend()
    return True


class _Act(torch.autograd.Function):
    """Features (B, F) to sampled actions (B, A) and log-probabilities (B,): the density of SAC's squashed Gaussian.

    The backward pass also adds the gradients of the actor's parameters to their flat tensor. anchor: any tensor that
    requires a gradient, without which autograd would leave out the calls on constant features.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, anchor: Tensor, body: Network, heads: list[Network]
    ) -> tuple[Tensor, Tensor]:
        mean, log_std, inside = gaussian(features, body, *heads)
        noise = torch.randn_like(mean)
        spread = log_std.exp().mul_(noise)
        free = mean + spread
        action, log_prob = free.tanh(), _log_density(noise, log_std, free)
        ctx.networks = (body, *heads)
        ctx.activations = [each.activations for each in ctx.networks]
        ctx.save_for_backward(action, spread, inside)
        return action, log_prob

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_action: Tensor, of_log_prob: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        action, spread, inside = ctx.saved_tensors
        column = of_log_prob[:, None]
        # u: before tanh. d log_prob / d u = 2 action; d action / d u = 1 - action^2.
        of_mean = of_action * (1.0 - action * action) + column * 2.0 * action
        of_log_std = (of_mean * spread).sub_(column).mul_(inside)
        for network, activations in zip(ctx.networks, ctx.activations, strict=True):
            network.activations = activations
        body, mean, log_std = ctx.networks
        latent = mean.backward(of_mean, inputs=True, add=True)
        latent = latent.add_(log_std.backward(of_log_std, inputs=True, add=True))
        return body.backward(latent, inputs=True, add=True), None, None, None


class _Value(torch.autograd.Function):
    """Observation and action (B, F + A) to the mean of the critics (B,), with gradients of the inputs only."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, critics: list[Network]) -> Tensor:
        values = torch.cat([critic.forward(inputs) for critic in critics], 1)
        ctx.critics, ctx.activations = critics, [each.activations for each in critics]
        return values.mean(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        total: Any = 0.0
        for critic, activations in zip(ctx.critics, ctx.activations, strict=True):
            critic.activations = activations
            total = total + critic.input_gradient((gradient / len(ctx.critics))[:, None])
        return total, None
