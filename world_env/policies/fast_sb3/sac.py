"""SAC of Stable-Baselines3 with a faster update on a CPU. The results are the same up to rounding.

As in `world_env.policies.fast_sb3.ppo`: the gradient is written by hand, all parameters of a network are in one tensor,
statistics are computed at the end. Random numbers are drawn in the order of Stable-Baselines3. Saved policies are plain
Stable-Baselines3 files. Configurations that the update does not cover (other policies, optimizers or devices,
state-dependent exploration) use the update of Stable-Baselines3; the log names the reason.

Source: Haarnoja et al. 2018, arXiv:1812.05905. Letters: B transitions of a minibatch, A action dimensions.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import stable_baselines3
import torch
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, SACPolicy
from torch import Tensor

from world_env.policies.fast_sb3.manual_backprop import (
    HALF_LOG_2PI,
    PLAIN_ADAM_EXPECTED,
    FlatParameters,
    Network,
    plain_adam,
    unsupported_layers,
)
from world_env.policies.fast_sb3.update_log import log_update
from world_env.policies.scaled_critics import ScaledCriticsPolicy


class SAC(stable_baselines3.SAC):
    """`stable_baselines3.SAC` with a faster `train`. Arguments, results and files are the same."""

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Update actor, critics, target critics and entropy coefficient, `gradient_steps` times."""
        reason = why_not_covered(self)
        log_update(self, reason)
        if reason is not None:
            super().train(gradient_steps, batch_size)
            return
        self.policy.set_training_mode(True)
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers.append(self.ent_coef_optimizer)
        self._update_learning_rate(optimizers)
        with torch.no_grad():
            update = _Update(self)
            for step in range(gradient_steps):
                batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)  # type: ignore[union-attr]
                update.step(batch, copy=step % self.target_update_interval == 0)
            update.keep()
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, values in update.logs.items():
            if values:
                self.logger.record(f"train/{name}", torch.stack(values).mean().item())


def covers(model: stable_baselines3.SAC) -> bool:
    """Return whether the fast update covers this algorithm."""
    return why_not_covered(model) is None


def why_not_covered(model: stable_baselines3.SAC) -> str | None:
    """Return why the fast update does not cover this algorithm, or None if it does."""
    policy, actor, critic = model.policy, model.actor, model.critic
    if type(policy) not in (SACPolicy, ScaledCriticsPolicy):
        return f"the policy is a {type(policy).__name__}, expected SACPolicy"
    if type(model.replay_buffer) not in (ReplayBuffer, NStepReplayBuffer):
        return f"the buffer is a {type(model.replay_buffer).__name__}, expected ReplayBuffer"
    if not isinstance(actor.action_dist, SquashedDiagGaussianDistribution):
        return f"the action distribution is a {type(actor.action_dist).__name__}"
    if not plain_adam(actor.optimizer, list(actor.parameters())) or not plain_adam(
        critic.optimizer, list(critic.parameters())
    ):
        return PLAIN_ADAM_EXPECTED
    for extractor in (actor.features_extractor, critic.features_extractor):
        if list(extractor.parameters()):
            return "the features extractor has trainable parameters"
    bodies: list[Any] = [actor.latent_pi, *critic.q_networks, *model.critic_target.q_networks]
    return unsupported_layers([layer for body in bodies for layer in body])


class Sample(NamedTuple):
    """Sampled actions: action, noise, standard deviation (B, A) and log_prob (B,).

    free: (B, A), whether the log standard deviation is inside its limits.
    """

    action: Tensor
    noise: Tensor
    deviation: Tensor
    log_prob: Tensor
    free: Tensor


def gaussian(
    features: Tensor, body: Network, mean: Network, log_std: Network
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (mean, log standard deviation, whether it is inside its limits) before tanh, each (B, A)."""
    latent = body.forward(features)
    middle, raw = mean.forward(latent), log_std.forward(latent)
    limited = raw.clamp(LOG_STD_MIN, LOG_STD_MAX)
    return middle, limited, raw == limited


def sample_actions(
    features: Tensor, body: Network, mean: Network, log_std: Network, *, epsilon: float
) -> Sample:
    """Sample actions of the squashed Gaussian of SAC for features (B, F). epsilon: of its log-probability."""
    middle, limited, free = gaussian(features, body, mean, log_std)
    deviation = limited.exp()
    noise = torch.normal(torch.zeros_like(middle), torch.ones_like(middle))
    action = (middle + deviation * noise).tanh_()
    log_prob = (noise * noise).mul_(-0.5).sub_(limited).sub_(HALF_LOG_2PI)
    log_prob -= (1.0 - action * action).add_(epsilon).log_()
    return Sample(action, noise, deviation, log_prob.sum(1), free)


class _Update:
    """Gradient steps of one `train` call. Works on copies of parameters and Adam moments; `keep` copies them back."""

    def __init__(self, model: SAC) -> None:
        self._model = model
        actor, critic, target = model.actor, model.critic, model.critic_target
        self._flat_actor = FlatParameters(list(actor.parameters()), actor.optimizer)
        self._flat_critic = FlatParameters(list(critic.parameters()), critic.optimizer)
        self._flat_target = FlatParameters(list(target.parameters()), None)
        self._flat_weight: FlatParameters | None = None
        self._log_weight = torch.zeros(1)
        if model.ent_coef_optimizer is not None and model.log_ent_coef is not None:
            self._flat_weight = FlatParameters([model.log_ent_coef], model.ent_coef_optimizer)
            self._log_weight = self._flat_weight.flat
        views = self._flat_actor.views()
        body: Any = actor.latent_pi
        self._body = Network([*body], views)
        self._mean, self._log_std = (
            Network([cast(Any, head)], views) for head in (actor.mu, actor.log_std)
        )
        self._actor_networks = (self._body, self._mean, self._log_std)
        views = self._flat_critic.views()
        self._critics = [Network([*cast(Any, q)], views) for q in critic.q_networks]
        views = self._flat_target.views()
        self._targets = [Network([*cast(Any, q)], views) for q in target.q_networks]
        names = ("ent_coef", "ent_coef_loss", "actor_loss", "critic_loss")
        self.logs: dict[str, list[Tensor]] = {name: [] for name in names}

    def step(self, batch: ReplayBufferSamples, *, copy: bool) -> None:
        """Update entropy coefficient, critics and actor once, and the target critics if `copy`."""
        model = self._model
        observations = model.actor.extract_features(
            batch.observations, model.actor.features_extractor
        )
        following = model.actor.extract_features(
            batch.next_observations, model.actor.features_extractor
        )
        sample = self._sample(observations)
        weight = self._entropy_weight(sample.log_prob)
        # The update of the critics overwrites the activations that the backward pass of the actor needs.
        activations = tuple(network.activations for network in self._actor_networks)
        self._update_critics(batch, observations, following, weight)
        for network, stored in zip(self._actor_networks, activations, strict=True):
            network.activations = stored
        self._update_actor(sample, observations, weight)
        if copy:
            self._flat_target.flat.lerp_(self._flat_critic.flat, model.tau)
        self.logs["ent_coef"].append(weight)

    def keep(self) -> None:
        """Copy parameters and moments back to the policy and its optimizers."""
        for flat in (self._flat_actor, self._flat_critic, self._flat_target, self._flat_weight):
            if flat is not None:
                flat.keep("SAC")

    # -- details -------------------------------------------------------------------------------------------------

    def _sample(self, features: Tensor) -> Sample:
        epsilon = self._model.actor.action_dist.epsilon  # type: ignore[attr-defined]
        return sample_actions(features, *self._actor_networks, epsilon=epsilon)

    def _entropy_weight(self, log_prob: Tensor) -> Tensor:
        """Update the entropy coefficient. Return its value before the update, as Stable-Baselines3 does; shape ()."""
        model, flat = self._model, self._flat_weight
        if flat is None:
            return model.ent_coef_tensor.squeeze()
        weight = self._log_weight.exp().squeeze()
        slope = -(log_prob.mean() + float(model.target_entropy))
        self.logs["ent_coef_loss"].append((self._log_weight * slope).squeeze())
        flat.gradient.fill_(slope)
        flat.descend()
        return weight

    def _update_critics(
        self, batch: ReplayBufferSamples, observations: Tensor, following: Tensor, weight: Tensor
    ) -> None:
        model = self._model
        sample = self._sample(following)
        after = torch.cat([following, sample.action], 1)
        values = torch.cat([target.forward(after) for target in self._targets], 1)
        value = values.amin(1, keepdim=True) - weight * sample.log_prob.unsqueeze(1)
        # None: one-step returns.
        discounts = model.gamma if batch.discounts is None else batch.discounts
        wanted = batch.rewards + (1.0 - batch.dones) * discounts * value
        before = torch.cat([observations, batch.actions], 1)
        loss = torch.zeros(())
        for critic in self._critics:
            error = critic.forward(before).sub_(wanted)
            loss = loss + 0.5 * (error * error).mean()
            critic.backward(error.mul_(1.0 / len(error)))
        self._flat_critic.descend()
        self.logs["critic_loss"].append(loss)

    def _update_actor(self, sample: Sample, observations: Tensor, weight: Tensor) -> None:
        rows = len(observations)
        action = sample.action
        before = torch.cat([observations, action], 1)
        values = torch.cat([critic.forward(before) for critic in self._critics], 1)
        least, place = values.min(1, keepdim=True)
        slope = torch.zeros_like(action)
        for number, critic in enumerate(self._critics):
            chosen = (place == number).float()
            slope += critic.input_gradient(chosen)[:, -action.shape[1] :]
        square = 1.0 - action * action
        epsilon = self._model.actor.action_dist.epsilon  # type: ignore[attr-defined]
        # Gradient of the mean loss by the action before tanh.
        gradient = (2.0 * weight * action / (square + epsilon)).sub_(slope).mul_(square)
        deviations = (gradient * sample.noise).mul_(sample.deviation).sub_(weight).mul_(sample.free)
        latent = self._mean.backward(gradient.mul_(1.0 / rows), inputs=True)
        latent = latent + self._log_std.backward(deviations.mul_(1.0 / rows), inputs=True)
        self._body.backward(latent)
        self._flat_actor.descend()
        loss = (weight * sample.log_prob - least.squeeze(1)).mean()
        self.logs["actor_loss"].append(loss)
