"""Recurrent state-space model for images, vectors, or both, and for partially observed environments.

Design (Hafner et al. 2023, DreamerV3, arXiv:2301.04104, unless another source is given):
- A state has a deterministic recurrent part and a sample of categorical variables.
- The posterior infers the categorical variables from a real observation, the prior predicts them without one. Each is
  trained towards the other (KL balancing with free nats), and every categorical distribution includes a small share of
  the uniform distribution (unimix).
- Vectors are transformed by symlog. The reward is a distribution over exponentially spaced bins (two-hot targets).
- An observation reaches the recurrent part only through the sampled variables. If an observation does not determine the
  state, the prior then learns to sample one possible outcome and to stay consistent with it, as a simulator must,
  instead of the mean of all outcomes.
- The reward of a terminal step has its own output. The rare terminal class has a larger weight in the loss, whose
  logarithm is subtracted from the logit.
- The uncertainty is the disagreement of small networks that predict the next categorical variables from the recurrent
  part [Sekar et al. 2020, arXiv:2005.05960].

Letters in shapes, besides those of `world_env.batch`: H units of the recurrent part, S = groups * classes.
"""

from __future__ import annotations

import copy
import math
import warnings
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from world_env.batch import Batch, Context, Observation, State, Statistics, replace
from world_env.models.base import Prediction, TrainableWorldModel
from world_env.models.layers.dense import PreparedDense, dense
from world_env.models.layers.ensemble_mlp import MemberMLP
from world_env.models.layers.losses import terminal_weight, weighted_mean
from world_env.models.layers.symlog import symexp
from world_env.models.rssm.config import PRESETS, RssmConfig
from world_env.models.rssm.encoder_decoder import EncoderDecoder
from world_env.rng import CounterRNG
from world_env.spaces import action_size
from world_env.spec import WorldSpec
from world_env.types import Uncertainty

__all__ = ["RssmConfig", "RssmWorldModel"]

_BINS, _MAX_SYMLOG_BIN = 63, 8.0
"""Number of reward bins, and symlog of the outermost bin in units of the reward scale."""

_POSTERIOR_GAIN = 8.0
"""Factor of the posterior's initial weights: its initial logits differ by about 3 instead of a third."""


class RssmWorldModel(TrainableWorldModel):
    """Recurrent state-space model: filters real observations, and predicts without them.

    State: deter (B, H), the deterministic recurrent part; stoch (B, S), one-hot vectors of all categorical variables.
    """

    config_class = RssmConfig
    presets = PRESETS
    scored_by_draws = True
    bins: Tensor
    reward: Tensor
    reward_range: Tensor
    log_terminal_weight: Tensor

    def __init__(self, spec: WorldSpec, config: RssmConfig) -> None:
        super().__init__(spec, config)
        self.config: RssmConfig = config
        self.context, self.windows = config.context, config.windows
        self.learning_rate = config.learning_rate
        hidden, deter, stoch = config.hidden, config.deter, config.groups * config.classes
        features = deter + stoch
        self.senses = EncoderDecoder(
            spec,
            hidden=hidden,
            patch=config.patch,
            depth=config.depth,
            features=features,
            precision=config.vector_deviation,
        )
        self.initial = nn.Parameter(torch.zeros(deter))
        self.taken = dense(stoch + action_size(spec.action_space), hidden)
        self.gates = nn.Sequential(
            nn.Linear(hidden + deter, 3 * deter, bias=False), nn.LayerNorm(3 * deter)
        )
        # With a negative update gate an untrained recurrent part keeps its value.
        cast("nn.LayerNorm", self.gates[-1]).bias.data[2 * deter :] = -1.0
        self.prior = nn.Sequential(*dense(deter, hidden), nn.Linear(hidden, stoch))
        self.posterior = nn.Sequential(
            *dense(deter + self.senses.size, hidden), nn.Linear(hidden, stoch)
        )
        # Nearly uniform samples carry no information of the observation, and the decoder would learn to ignore them.
        cast("nn.Linear", self.posterior[-1]).weight.data.mul_(_POSTERIOR_GAIN)
        self.outcome = nn.Sequential(*dense(features, hidden, 2), nn.Linear(hidden, 2 * _BINS + 1))
        # An untrained model does not terminate.
        cast("nn.Linear", self.outcome[-1]).bias.data[-1] = -5.0
        self.doubters = MemberMLP(config.members, deter, hidden // 2, 1, stoch)
        self.register_buffer(
            "bins", symexp(torch.linspace(-_MAX_SYMLOG_BIN, _MAX_SYMLOG_BIN, _BINS))
        )
        self.register_buffer("reward", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
        self.register_buffer("reward_range", torch.tensor([-1e6, 1e6]))
        self.register_buffer("log_terminal_weight", torch.zeros(()))

    def inert_buffers(self) -> tuple[str, ...]:
        """The groups of categories, if the observation has none."""
        return self.senses.categories.inert_buffers("senses.categories")

    def completed(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a model without categories decode numbers in every column."""
        none = {"senses.categories.group": torch.full_like(self.senses.categories.group, -1)}
        return none | weights

    def prepare(self, statistics: Statistics) -> None:
        """Set the scales, the reward range, and the weight of terminal steps."""
        self.senses.prepare(statistics)
        usual = (statistics.reward_center, statistics.reward_scale)
        terminal = (statistics.terminal_reward_center, statistics.terminal_reward_scale)
        self.reward.copy_(torch.tensor([usual, terminal]))
        self.reward_range.copy_(torch.tensor([statistics.reward_low, statistics.reward_high]))
        log_weight, bias = terminal_weight(
            statistics.terminal_fraction, self.config.terminal_weight
        )
        self.log_terminal_weight.fill_(log_weight)
        # An untrained model predicts the center of the reward and the share of terminal steps.
        last = cast("nn.Linear", self.outcome[-1])
        last.weight.data.zero_()
        last.bias.data[: 2 * _BINS] = 0.0
        last.bias.data[-1] = bias

    def warm_start(self, older: TrainableWorldModel) -> None:
        """Take over the older weights and scales; only the ranges are those of the new data.

        If the older scales cannot represent the range of the new data, the fit starts from scratch, with a warning.
        """
        assert isinstance(older, RssmWorldModel)
        if not self.senses.within(older.senses):
            warnings.warn(
                "no warm start: the range of the new data is too large for the scales of the older model, or their "
                "one-hot columns differ. This fit "
                "starts from scratch and needs the gradient steps of a full fit",
                stacklevel=2,
            )
            return
        ranges = {name: value for name, value in self.state_dict().items() if _is_range(name)}
        self.load_state_dict(older.state_dict() | ranges)

    def for_inference(self) -> RssmWorldModel:
        """Return the model for fast steps without gradients: its small layers need fewer calls."""
        fast = copy.copy(self)
        prepared = {
            name: PreparedDense(getattr(self, name)) for name in ("taken", "prior", "outcome")
        }
        fast._modules = {**self._modules, **prepared}
        return fast

    # -- State ----------------------------------------------------------------------------------------------------

    def encode(self, context: Context, *, rng: CounterRNG) -> State:
        """Infer the state from the first observation of each row, then update it with the others."""
        first = {key: value[:, 0] for key, value in context.observations.items()}
        embedded = self.senses.encode(first)
        deter = self.initial.tanh().expand(embedded.shape[0], -1)
        state = self._filtered(deter, embedded, rng)
        for k in range(context.actions.shape[1]):
            observation = {key: value[:, k + 1] for key, value in context.observations.items()}
            updated = self.observe(state, context.actions[:, k], observation, rng=rng)
            state = replace(state, context.length > k + 1, updated)
        return state

    def observe(
        self, state: State, action: Tensor, observation: Observation, *, rng: CounterRNG
    ) -> State:
        """Update the recurrent part with the action, then the categorical variables with the observation."""
        deter = self._recurrence(state, action)
        return self._filtered(deter, self.senses.encode(observation), rng)

    def step(
        self,
        state: State,
        action: Tensor,
        *,
        rng: CounterRNG,
        temperature: float = 1.0,
        uncertainty: Uncertainty = False,
    ) -> tuple[State, Prediction]:
        """Update the recurrent part with the action, then sample the categorical variables from the prior.

        `Prediction.uncertainty`: standard deviation over the small networks of the predicted probabilities of the
        categorical variables (root of the variance that is summed over classes and averaged over groups). It has one
        quality; "full" equals True.
        """
        arrived = self._predicted(state, action, rng, temperature)
        bins, logit = self._outcome(self.features(arrived))
        rewards = self._reward_units(bins)
        prediction = Prediction(
            rewards[:, 0],
            (logit - self.log_terminal_weight).sigmoid(),
            rewards[:, 1],
            self._disagreement(arrived["deter"]) if uncertainty else None,
        )
        return arrived, prediction

    def decode(self, state: State) -> Observation:
        """Decode the most likely observation of the state."""
        return self.senses.decode(self.features(state))

    def features(self, state: State) -> Tensor:
        """Return both parts of the state, (B, H + S)."""
        return torch.cat([state["deter"], state["stoch"]], -1)

    def _recurrence(self, state: State, action: Tensor) -> Tensor:
        """Recurrent part after an action, (B, H), by a gated recurrent unit."""
        deter = state["deter"]
        taken = self.taken(torch.cat([state["stoch"], action], -1))
        reset, candidate, update = self.gates(torch.cat([taken, deter], -1)).chunk(3, -1)
        candidate = (reset.sigmoid() * candidate).tanh()
        return deter.lerp(candidate, update.sigmoid())

    def _predicted(
        self, state: State, action: Tensor, rng: CounterRNG, temperature: float = 1.0
    ) -> State:
        """Next state, sampled from the prior."""
        deter = self._recurrence(state, action)
        stoch = self._draw(self._probabilities(self.prior(deter)), rng, temperature)
        return {"deter": deter, "stoch": stoch}

    def _filtered(self, deter: Tensor, embedded: Tensor, rng: CounterRNG) -> State:
        """State after an observation, sampled from the posterior. deter: recurrent part before the observation."""
        return {"deter": deter, "stoch": self._draw(self._posterior(deter, embedded), rng)}

    def _posterior(self, deter: Tensor, embedded: Tensor) -> Tensor:
        """Probabilities of the categorical variables given an observation, (B, groups, classes)."""
        return self._probabilities(self.posterior(torch.cat([deter, embedded], -1)))

    def _probabilities(self, logits: Tensor) -> Tensor:
        """Convert logits (..., S) to probabilities (..., groups, classes), with a share of the uniform distribution."""
        softmax = logits.unflatten(-1, (self.config.groups, self.config.classes)).softmax(-1)
        return softmax * (1.0 - self.config.unimix) + self.config.unimix / self.config.classes

    def _draw(self, probabilities: Tensor, rng: CounterRNG, temperature: float = 1.0) -> Tensor:
        """Sample one class per group from (B, groups, classes); returns one-hot vectors (B, S).

        Gradients are those of the probabilities (straight-through).
        """
        scaled = probabilities.detach()
        if temperature not in (0.0, 1.0):
            # Relative to the most likely class: high powers of small probabilities would all underflow to 0.
            scaled = (scaled / scaled.amax(-1, keepdim=True)) ** (1.0 / temperature)
        number = rng.categorical(scaled)
        if temperature == 0.0:
            number = scaled.argmax(-1)
        drawn = torch.zeros_like(scaled).scatter_(-1, number[..., None], 1.0)
        if probabilities.requires_grad:
            drawn = drawn + probabilities - probabilities.detach()
        return drawn.flatten(-2)

    def _outcome(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(reward logits (..., 2, bins) of non-terminal and terminal steps, weighted termination logit (...))."""
        logits = self.outcome(features)
        return logits[..., :-1].unflatten(-1, (2, _BINS)), logits[..., -1]

    def _reward_units(self, logits: Tensor) -> Tensor:
        """Expected rewards (B, 2) of logits (B, 2, bins), for non-terminal and terminal steps, in task units."""
        center, scale = self.reward.unbind(1)
        low, high = self.reward_range
        return torch.addcmul(center, logits.softmax(-1) @ self.bins, scale).clamp(low, high)

    def _disagreement(self, deter: Tensor) -> Tensor:
        """Uncertainty of the categorical variables given the recurrent part, (B,)."""
        logits = self.doubters(deter[None]).unflatten(-1, (self.config.groups, self.config.classes))
        return logits.softmax(-1).var(0, correction=0).sum(-1).mean(-1).sqrt()

    # -- Training --------------------------------------------------------------------------------------------------

    def shift_termination(self, log_odds: float) -> bool:
        """Add a constant to the log-odds of termination."""
        self.log_terminal_weight -= log_odds
        return True

    def window(self, progress: float) -> int:
        """Return `RssmConfig.window`, at any progress."""
        return self.config.window

    def loss(
        self, batch: Batch, *, rng: CounterRNG, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the prediction losses of the filtered states, and the KL divergence of posterior and prior."""
        config = self.config
        rows, steps = batch.valid.shape
        folded = {key: value.flatten(0, 1) for key, value in batch.observations.items()}
        embedded = self.senses.encode(folded).unflatten(0, (rows, steps + 1))
        valid = batch.valid.to(embedded.dtype)
        observed = torch.cat([torch.ones_like(valid[:, :1]), valid], 1)
        deter, stoch, posterior = self._filter(embedded, batch.actions, rng)
        prior = self._probabilities(self.prior(deter))
        parts = self._prediction_loss(torch.cat([deter, stoch], -1), batch, observed, rng)
        parts["dynamics"] = config.dynamics_weight * weighted_mean(
            self._kl_divergence(posterior.detach(), prior), observed
        )
        parts["representation"] = config.representation_weight * weighted_mean(
            self._kl_divergence(posterior, prior.detach()), observed
        )
        logits = self.doubters(deter.detach().flatten(0, 1)[None])
        log_likelihood = logits.unflatten(-1, posterior.shape[-2:]).log_softmax(-1)
        target = posterior.detach().flatten(0, 1)
        cross_entropy = -(log_likelihood * target).sum((-1, -2)).sum(0)
        parts["doubters"] = weighted_mean(cross_entropy, observed.flatten())
        logs = {name: part.detach() for name, part in parts.items()}
        return torch.stack(list(parts.values())).sum(), logs

    def _filter(
        self, embedded: Tensor, actions: Tensor, rng: CounterRNG
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Filter windows: recurrent parts (B, T+1, H), samples (B, T+1, S), posteriors (B, T+1, groups, classes)."""
        deter = self.initial.tanh().expand(len(embedded), -1)
        recurrent: list[Tensor] = []
        samples: list[Tensor] = []
        posteriors: list[Tensor] = []
        for k in range(embedded.shape[1]):
            if k:
                last = {"deter": recurrent[-1], "stoch": samples[-1]}
                deter = self._recurrence(last, actions[:, k - 1])
            recurrent.append(deter)
            posteriors.append(self._posterior(deter, embedded[:, k]))
            samples.append(self._draw(posteriors[-1], rng))
        deter, stoch, posterior = (
            torch.stack(each, 1) for each in (recurrent, samples, posteriors)
        )
        return deter, stoch, posterior

    def _prediction_loss(
        self, features: Tensor, batch: Batch, observed: Tensor, rng: CounterRNG
    ) -> dict[str, Tensor]:
        """Losses of observation, reward and termination of states (B, T+1, F). observed: (B, T+1), 1 where valid."""
        parts = {"observation": self._observation_loss(features, batch.observations, observed, rng)}
        # No step leads to the first state, so it has no reward.
        arrived, valid = features[:, 1:], observed[:, 1:]
        terminated, rewards = batch.terminated, batch.rewards
        bins, logit = self._outcome(arrived)
        usual, terminal = bins.unbind(-2)
        parts["reward"] = self._reward_loss(usual, rewards, 0, valid * (1.0 - terminated))
        parts["terminal_reward"] = self._reward_loss(terminal, rewards, 1, valid * terminated)
        weight = self.log_terminal_weight.exp()
        parts["termination"] = weighted_mean(
            functional.binary_cross_entropy_with_logits(
                logit, terminated, pos_weight=weight, reduction="none"
            ),
            valid,
        )
        return parts

    def _observation_loss(
        self, features: Tensor, real: Observation, observed: Tensor, rng: CounterRNG
    ) -> Tensor:
        """Reconstruction loss of states (B, N, F). Images are decoded at a random part of the N steps of each row."""
        vectors = {key: real[key].flatten(0, 1) for key in self.senses.vectors}
        vector_loss = self.senses.vector_loss(features.flatten(0, 1), vectors)
        loss = weighted_mean(vector_loss, observed.flatten())
        if not self.senses.images:
            return loss
        rows, steps = observed.shape
        chosen = rng.uniform(steps).argsort(-1)[:, : math.ceil(self.config.decoded * steps)]
        row = torch.arange(rows, device=chosen.device)[:, None]
        images = {key: real[key][row, chosen].flatten(0, 1) for key in self.senses.images}
        image_loss = self.senses.image_loss(features[row, chosen].flatten(0, 1), images)
        return loss + weighted_mean(image_loss, observed[row, chosen].flatten())

    def _reward_loss(self, logits: Tensor, rewards: Tensor, kind: int, weight: Tensor) -> Tensor:
        center, scale = self.reward[kind]
        return weighted_mean(two_hot_loss(logits, (rewards - center) / scale, self.bins), weight)

    def _kl_divergence(self, posterior: Tensor, prior: Tensor) -> Tensor:
        """KL(posterior || prior) summed over all groups, at least `free_nats`: (B, T+1)."""
        divergence = (posterior * (posterior.log() - prior.log())).sum((-1, -2))
        return divergence.clamp(min=self.config.free_nats)


def two_hot_loss(logits: Tensor, value: Tensor, bins: Tensor) -> Tensor:
    """Cross-entropy (...) of logits (..., bins) with the two-hot encoding of a value (...).

    The two nearest bins share the weight, such that their weighted mean is the value.
    Source: DreamerV3, arXiv:2301.04104, eq. 11.
    """
    value = value.clamp(bins[0], bins[-1])
    above = torch.searchsorted(bins, value.contiguous()).clamp(1, len(bins) - 1)
    low, high = bins[above - 1], bins[above]
    share = ((value - low) / (high - low))[..., None]
    log_likelihood = logits.log_softmax(-1)
    below = log_likelihood.gather(-1, above[..., None] - 1) * (1.0 - share)
    return -(below + log_likelihood.gather(-1, above[..., None]) * share).squeeze(-1)


def _is_range(name: str) -> bool:
    """Return True for buffers that hold the range of the data."""
    return name == "reward_range" or name.endswith((".low", ".high"))
