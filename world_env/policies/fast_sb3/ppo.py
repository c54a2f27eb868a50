"""Stable-Baselines3's PPO with a cheaper update: the same numbers up to rounding, several times sooner on a CPU.

With small networks most of an update is not arithmetic but what surrounds it, once a minibatch: autograd, an optimiser
that visits every tensor, validated distributions, copies from numpy, statistics. Here the gradient is written out, all
parameters lie in one tensor, batches are cut from an order drawn once an epoch (with the same random numbers), and
statistics are taken at the end. Policies on disk are plain Stable-Baselines3's. What `covers` refuses (other policies,
optimisers, devices, state-dependent exploration) runs Stable-Baselines3's own update.

Letters: N transitions of a rollout, B of a minibatch, F features, A action dimensions or choices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.utils import explained_variance
from torch import Tensor, nn

from world_env.policies.fast_sb3.manual_backprop import (
    ACTIVATIONS,
    CategoricalHead,
    FlatParameters,
    GaussianHead,
    Network,
    plain_adam,
)


class PPO(stable_baselines3.PPO):
    """`stable_baselines3.PPO`, its arguments and its files; only the time of `train` differs."""

    def train(self) -> None:
        """Update the policy with the rollout that was collected last."""
        if not covers(self):
            super().train()
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        with torch.no_grad():
            update = _Update(self)
            update.run()
            update.keep()
        self._record(update)

    def _record(self, update: _Update) -> None:
        """The logs of Stable-Baselines3, by the same names."""
        buffer, record = self.rollout_buffer, self.logger.record
        for name, value in update.logs.means(update.clip_range).items():
            record(f"train/{name}", value)
        record("train/loss", update.loss())
        record(
            "train/explained_variance",
            explained_variance(buffer.values.flatten(), buffer.returns.flatten()),
        )
        if hasattr(self.policy, "log_std"):
            record("train/std", self.policy.log_std.detach().exp().mean().item())
        record("train/n_updates", self._n_updates, exclude="tensorboard")
        record("train/clip_range", update.clip_range)
        if update.clip_range_vf is not None:
            record("train/clip_range_vf", update.clip_range_vf)


def covers(model: stable_baselines3.PPO) -> bool:
    """Whether the written-out update is this model's: plain networks, Gaussian or categorical actions, Adam, CPU."""
    policy = model.policy
    if type(policy) is not ActorCriticPolicy or type(model.rollout_buffer) is not RolloutBuffer:
        return False
    layers = [*policy.mlp_extractor.policy_net, *policy.mlp_extractor.value_net]
    return (
        plain_adam(policy.optimizer, list(policy.parameters()))
        and policy.share_features_extractor
        and not list(policy.features_extractor.parameters())
        and type(policy.action_dist) in (DiagGaussianDistribution, CategoricalDistribution)
        and all(type(layer) is nn.Linear or type(layer) in ACTIVATIONS for layer in layers)
    )


@dataclass
class _Logs:
    """What each minibatch leaves for the logs. last_epoch: where the last epoch's minibatches begin."""

    surrogates: list[Tensor] = field(default_factory=list)
    squares: list[Tensor] = field(default_factory=list)
    entropies: list[Tensor] = field(default_factory=list)
    log_ratios: list[Tensor] = field(default_factory=list)
    last_epoch: int = 0

    def means(self, clip_range: float) -> dict[str, float]:
        """Means over minibatches of their means over rows, by Stable-Baselines3's names."""
        ratio = torch.cat(self.log_ratios).exp()
        every = _weights(self.log_ratios)
        return {
            "entropy_loss": -(torch.cat(self.entropies) @ every).item(),
            "policy_gradient_loss": -(torch.cat(self.surrogates) @ every).item(),
            "value_loss": (torch.cat(self.squares) @ every).item(),
            "approx_kl": _kl(self.log_ratios[self.last_epoch :]),
            "clip_fraction": (((ratio - 1.0).abs() > clip_range).float() @ every).item(),
        }


def _weights(parts: list[Tensor]) -> Tensor:
    """What each row of the joined parts weighs in the mean over parts of their means."""
    sizes = torch.tensor([len(part) for part in parts])
    return (1.0 / (sizes * len(parts))).repeat_interleave(sizes)


def _kl(log_ratios: list[Tensor]) -> float:
    """How far the policy has moved, averaged over minibatches. Source: http://joschu.net/blog/kl-approx.html."""
    joined = torch.cat(log_ratios)
    return ((joined.exp() - 1.0 - joined) @ _weights(log_ratios)).item()


class _Update:
    """All epochs over one rollout. Parameters and Adam's moments are copied in here, and by `keep` back."""

    def __init__(self, model: PPO) -> None:
        self._model, self._policy = model, model.policy
        remaining = model._current_progress_remaining
        self.clip_range = float(model.clip_range(remaining))  # type: ignore[operator]
        self.clip_range_vf: float | None = None
        if model.clip_range_vf is not None:
            self.clip_range_vf = float(model.clip_range_vf(remaining))  # type: ignore[operator]
        self.logs = _Logs()
        self._flat = FlatParameters(list(model.policy.parameters()), model.policy.optimizer)
        views = self._flat.views()
        policy = self._policy
        self._actor = Network([*policy.mlp_extractor.policy_net, policy.action_net], views)
        self._critic = Network([*policy.mlp_extractor.value_net, policy.value_net], views)
        self._gaussian = type(policy.action_dist) is DiagGaussianDistribution
        self._head: GaussianHead | CategoricalHead = CategoricalHead(model.ent_coef)
        if self._gaussian:
            self._head = GaussianHead(*views[policy.log_std], model.ent_coef)

    def run(self) -> None:
        """Every epoch, or fewer where the policy has moved further than `target_kl` allows."""
        model = self._model
        limit = math.inf if model.target_kl is None else 1.5 * model.target_kl
        rollout = self._rollout()
        for epoch in range(model.n_epochs):
            self.logs.last_epoch = len(self.logs.log_ratios)
            moved = 0.0
            for batch in _minibatches(rollout, model.batch_size):
                self._differentiate(batch)
                if model.target_kl is not None:
                    moved = _kl(self.logs.log_ratios[-1:])
                if moved > limit:
                    break
                self._descend()
            model._n_updates += 1
            if moved > limit:
                if model.verbose >= 1:
                    model.logger.log(f"Early stopping at epoch {epoch}: the KL is {moved:.2g}")
                break

    def keep(self) -> None:
        """Hand parameters and moments back to the policy and its optimiser."""
        self._flat.keep("PPO")

    def loss(self) -> float:
        """Of the last minibatch."""
        logs, model = self.logs, self._model
        policy, entropy = -logs.surrogates[-1].mean(), -logs.entropies[-1].mean()
        return (policy + model.ent_coef * entropy + model.vf_coef * logs.squares[-1].mean()).item()

    # -- details -------------------------------------------------------------------------------------------------

    def _rollout(self) -> RolloutBufferSamples:
        """All N transitions in Stable-Baselines3's order."""
        buffer = self._model.rollout_buffer
        flat = {
            name: torch.from_numpy(buffer.swap_and_flatten(getattr(buffer, name)))
            for name in ("observations", "actions", "values", "log_probs", "advantages", "returns")
        }
        actions = flat["actions"].float() if self._gaussian else flat["actions"].long().flatten()
        # What Stable-Baselines3 makes of them anyway, in every minibatch.
        observations = flat["observations"]
        if observations.dtype is torch.float64:
            observations = observations.float()
        scalars = (
            flat[name].flatten() for name in ("values", "log_probs", "advantages", "returns")
        )
        return RolloutBufferSamples(observations, actions, *scalars)

    def _differentiate(self, batch: RolloutBufferSamples) -> None:
        """Write the gradient of one minibatch's loss, and note its statistics."""
        model, rows = self._model, len(batch.returns)
        features = cast(Tensor, self._policy.extract_features(batch.observations))
        output = self._actor.forward(features)
        values = self._critic.forward(features).flatten()
        log_prob, entropy = self._head.forward(output, batch.actions)
        advantages = batch.advantages
        if model.normalize_advantage and rows > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        log_ratio = log_prob - batch.old_log_prob
        ratio = log_ratio.exp()
        free = advantages * ratio
        clipped = advantages * ratio.clamp(1.0 - self.clip_range, 1.0 + self.clip_range)
        # Where clipping lowers the surrogate it no longer depends on the policy.
        slope = torch.where(free <= clipped, free, 0.0).mul_(-1.0 / rows)
        self._actor.backward(self._head.backward(slope))
        errors, half_slope = self._value_error(values, batch)
        self._critic.backward((half_slope * (2.0 * model.vf_coef / rows)).unsqueeze(1))
        self.logs.surrogates.append(torch.minimum(free, clipped))
        self.logs.squares.append(errors * errors)
        self.logs.entropies.append(entropy)
        self.logs.log_ratios.append(log_ratio)

    def _value_error(self, values: Tensor, batch: RolloutBufferSamples) -> tuple[Tensor, Tensor]:
        """Each row's error, and half the slope of its square in the value."""
        if self.clip_range_vf is None:
            errors = values - batch.returns
            return errors, errors
        change = values - batch.old_values
        kept = change.clamp(-self.clip_range_vf, self.clip_range_vf)
        errors = batch.old_values + kept - batch.returns
        # Beyond the clip range the error no longer depends on the value.
        return errors, errors * (change == kept)

    def _descend(self) -> None:
        """Clip the gradient and take one step of Adam, all parameters at once."""
        gradient = self._flat.gradient
        norm = gradient.norm()
        gradient.mul_((self._model.max_grad_norm / (norm + 1e-6)).clamp_(max=1.0))
        self._flat.descend()


def _minibatches(rollout: RolloutBufferSamples, size: int) -> Iterator[RolloutBufferSamples]:
    """One epoch, in the order that Stable-Baselines3 would draw; one gather a tensor instead of one a minibatch."""
    order = torch.from_numpy(np.random.permutation(len(rollout.returns)))
    for parts in zip(
        *(values.index_select(0, order).split(size) for values in rollout), strict=True
    ):
        yield RolloutBufferSamples(*parts)
