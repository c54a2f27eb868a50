"""PPO of Stable-Baselines3 with a faster update on a CPU. The results are the same up to rounding.

With small networks, most of the time of a minibatch is overhead: autograd, an optimizer loop over tensors, validated
distributions, copies from numpy, statistics. Here the gradient is written by hand, all parameters are in one tensor,
minibatches are slices of one permutation per epoch (with the same random numbers), and statistics are computed at the
end. Saved policies are plain Stable-Baselines3 files. Configurations that the update does not cover (other policies,
optimizers or devices, state-dependent exploration) use the update of Stable-Baselines3; the log names the reason.

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
from torch import Tensor

from world_env.policies.fast_sb3.manual_backprop import (
    PLAIN_ADAM_EXPECTED,
    CategoricalHead,
    FlatParameters,
    GaussianHead,
    Network,
    plain_adam,
    unsupported_layers,
)
from world_env.policies.fast_sb3.update_log import log_update


class PPO(stable_baselines3.PPO):
    """`stable_baselines3.PPO` with a faster `train`. Arguments, results and files are the same."""

    def train(self) -> None:
        """Update the policy with the last rollout."""
        reason = why_not_covered(self)
        log_update(self, reason)
        if reason is not None:
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
        """Record the logs of Stable-Baselines3, under the same names."""
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
    """Return whether the fast update covers this algorithm."""
    return why_not_covered(model) is None


def why_not_covered(model: stable_baselines3.PPO) -> str | None:
    """Return why the fast update does not cover this algorithm, or None if it does."""
    policy = model.policy
    if type(policy) is not ActorCriticPolicy:
        return f"the policy is a {type(policy).__name__}, expected ActorCriticPolicy"
    if type(model.rollout_buffer) is not RolloutBuffer:
        return f"the buffer is a {type(model.rollout_buffer).__name__}, expected RolloutBuffer"
    if not plain_adam(policy.optimizer, list(policy.parameters())):
        return PLAIN_ADAM_EXPECTED
    if not policy.share_features_extractor:
        return "policy and value function have separate features extractors"
    if list(policy.features_extractor.parameters()):
        return "the features extractor has trainable parameters"
    if type(policy.action_dist) not in (DiagGaussianDistribution, CategoricalDistribution):
        return f"the action distribution is a {type(policy.action_dist).__name__}"
    layers = [*policy.mlp_extractor.policy_net, *policy.mlp_extractor.value_net]
    return unsupported_layers(layers)


@dataclass
class _Logs:
    """Statistics of each minibatch. last_epoch: index of the first minibatch of the last epoch."""

    surrogates: list[Tensor] = field(default_factory=list)
    squares: list[Tensor] = field(default_factory=list)
    entropies: list[Tensor] = field(default_factory=list)
    log_ratios: list[Tensor] = field(default_factory=list)
    last_epoch: int = 0

    def means(self, clip_range: float) -> dict[str, float]:
        """Return the means over minibatches of their means, under the names of Stable-Baselines3."""
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
    """Return the weight of each entry of the concatenated parts in the mean of their means."""
    sizes = torch.tensor([len(part) for part in parts])
    return (1.0 / (sizes * len(parts))).repeat_interleave(sizes)


def _kl(log_ratios: list[Tensor]) -> float:
    """Return the approximate KL divergence, averaged over minibatches. Source: http://joschu.net/blog/kl-approx.html."""
    joined = torch.cat(log_ratios)
    return ((joined.exp() - 1.0 - joined) @ _weights(log_ratios)).item()


class _Update:
    """All epochs over one rollout. Works on copies of parameters and Adam moments; `keep` copies them back."""

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
        """Run all epochs, or stop early when the KL divergence exceeds `target_kl`."""
        model = self._model
        limit = math.inf if model.target_kl is None else 1.5 * model.target_kl
        rollout = self._rollout()
        for epoch in range(model.n_epochs):
            self.logs.last_epoch = len(self.logs.log_ratios)
            kl = 0.0
            for batch in _minibatches(rollout, model.batch_size):
                self._differentiate(batch)
                if model.target_kl is not None:
                    kl = _kl(self.logs.log_ratios[-1:])
                if kl > limit:
                    break
                self._descend()
            model._n_updates += 1
            if kl > limit:
                if model.verbose >= 1:
                    model.logger.log(f"Early stopping at epoch {epoch}: the KL is {kl:.2g}")
                break

    def keep(self) -> None:
        """Copy parameters and moments back to the policy and its optimizer."""
        self._flat.keep("PPO")

    def loss(self) -> float:
        """Return the loss of the last minibatch."""
        logs, model = self.logs, self._model
        policy, entropy = -logs.surrogates[-1].mean(), -logs.entropies[-1].mean()
        return (policy + model.ent_coef * entropy + model.vf_coef * logs.squares[-1].mean()).item()

    # -- details -------------------------------------------------------------------------------------------------

    def _rollout(self) -> RolloutBufferSamples:
        """Return all N transitions in the order of Stable-Baselines3."""
        buffer = self._model.rollout_buffer
        flat = {
            name: torch.from_numpy(buffer.swap_and_flatten(getattr(buffer, name)))
            for name in ("observations", "actions", "values", "log_probs", "advantages", "returns")
        }
        actions = flat["actions"].float() if self._gaussian else flat["actions"].long().flatten()
        # Stable-Baselines3 converts them in each minibatch.
        observations = flat["observations"]
        if observations.dtype is torch.float64:
            observations = observations.float()
        scalars = (
            flat[name].flatten() for name in ("values", "log_probs", "advantages", "returns")
        )
        return RolloutBufferSamples(observations, actions, *scalars)

    def _differentiate(self, batch: RolloutBufferSamples) -> None:
        """Write the gradient of the loss of one minibatch and append its statistics."""
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
        surrogate = advantages * ratio
        clipped = advantages * ratio.clamp(1.0 - self.clip_range, 1.0 + self.clip_range)
        # Where clipping lowers the surrogate, it does not depend on the policy.
        slope = torch.where(surrogate <= clipped, surrogate, 0.0).mul_(-1.0 / rows)
        self._actor.backward(self._head.backward(slope))
        errors, half_slope = self._value_error(values, batch)
        self._critic.backward((half_slope * (2.0 * model.vf_coef / rows)).unsqueeze(1))
        self.logs.surrogates.append(torch.minimum(surrogate, clipped))
        self.logs.squares.append(errors * errors)
        self.logs.entropies.append(entropy)
        self.logs.log_ratios.append(log_ratio)

    def _value_error(self, values: Tensor, batch: RolloutBufferSamples) -> tuple[Tensor, Tensor]:
        """Return the value error of each transition and half the derivative of its square by the value."""
        if self.clip_range_vf is None:
            errors = values - batch.returns
            return errors, errors
        change = values - batch.old_values
        clipped = change.clamp(-self.clip_range_vf, self.clip_range_vf)
        errors = batch.old_values + clipped - batch.returns
        # Beyond the clip range, the error does not depend on the value.
        return errors, errors * (change == clipped)

    def _descend(self) -> None:
        """Clip the gradient and take one Adam step for all parameters."""
        gradient = self._flat.gradient
        norm = gradient.norm()
        gradient.mul_((self._model.max_grad_norm / (norm + 1e-6)).clamp_(max=1.0))
        self._flat.descend()


def _minibatches(rollout: RolloutBufferSamples, size: int) -> Iterator[RolloutBufferSamples]:
    """Yield one epoch in the order of Stable-Baselines3, with one gather per tensor instead of one per minibatch."""
    order = torch.from_numpy(np.random.permutation(len(rollout.returns)))
    for parts in zip(
        *(values.index_select(0, order).split(size) for values in rollout), strict=True
    ):
        yield RolloutBufferSamples(*parts)
