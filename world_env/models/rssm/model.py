"""A recurrent state-space model: pixels, vectors, or both, and pasts that one observation does not show.

What it does, and why (Hafner et al. 2023, DreamerV3, arXiv:2301.04104, unless something else is named):
- a state is a deterministic memory and a draw of categorical variables: what is remembered, and what may be;
- the posterior takes in a real observation, the prior says the next state without one; either is pulled to the other
  (KL balance with free nats), and every categorical keeps a little of the uniform one (unimix);
- observations are squashed by symlog, rewards are told as a distribution over exponentially spaced bins (two-hot);
- what is seen reaches the memory through the draws alone, never beside them: where an observation does not tell all,
  the prior then learns to draw one way that things may be and to keep to it, as a simulator must, instead of the mean
  of all;
- a step that terminates has a reward of its own; the rare terminal class is weighted, its logarithm taken off again;
- uncertainty is the disagreement of small networks that say the next categoricals from the memory [Sekar et al. 2020,
  arXiv:2005.05960].
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
from world_env.models.rssm.config import LargeRssmConfig, RssmConfig
from world_env.models.rssm.encoder_decoder import EncoderDecoder
from world_env.rng import CounterRNG
from world_env.spaces import action_size
from world_env.spec import WorldSpec
from world_env.types import Uncertainty

__all__ = ["LargeRssmConfig", "RssmConfig", "RssmWorldModel"]

_BINS, _FURTHEST = 63, 8.0
"""Bins of a reward, symexp-spaced in units of the data's scale, and the logarithm of the outermost ones."""

_SURE = 8.0
"""How many times as far as usual the posterior's logits are apart at first: about 3 instead of a third."""


class RssmWorldModel(TrainableWorldModel):
    """Memory and categoricals, filtered where reality shows itself, imagined where not.

    State: deter (B, H), the memory; stoch (B, S), one-hots of all groups, S = groups * classes.
    """

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
        # An untrained memory keeps what it has.
        cast("nn.LayerNorm", self.gates[-1]).bias.data[2 * deter :] = -1.0
        self.prior = nn.Sequential(*dense(deter, hidden), nn.Linear(hidden, stoch))
        self.posterior = nn.Sequential(
            *dense(deter + self.senses.size, hidden), nn.Linear(hidden, stoch)
        )
        # Draws that are all but uniform say nothing of what is seen, and a decoder soon learns to ignore them.
        cast("nn.Linear", self.posterior[-1]).weight.data.mul_(_SURE)
        self.outcome = nn.Sequential(*dense(features, hidden, 2), nn.Linear(hidden, 2 * _BINS + 1))
        # Nothing ends in a model that knows nothing.
        cast("nn.Linear", self.outcome[-1]).bias.data[-1] = -5.0
        self.doubters = MemberMLP(config.members, deter, hidden // 2, 1, stoch)
        self.register_buffer("bins", symexp(torch.linspace(-_FURTHEST, _FURTHEST, _BINS)))
        self.register_buffer("reward", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
        self.register_buffer("reward_range", torch.tensor([-1e6, 1e6]))
        self.register_buffer("log_terminal_weight", torch.zeros(()))

    def prepare(self, statistics: Statistics) -> None:
        """Take over the scales, and weigh terminal steps by how rare they are."""
        self.senses.prepare(statistics)
        going_on = (statistics.reward_center, statistics.reward_scale)
        terminal = (statistics.terminal_reward_center, statistics.terminal_reward_scale)
        self.reward.copy_(torch.tensor([going_on, terminal]))
        self.reward_range.copy_(torch.tensor([statistics.reward_low, statistics.reward_high]))
        log_weight, bias = terminal_weight(
            statistics.terminal_fraction, self.config.terminal_weight
        )
        self.log_terminal_weight.fill_(log_weight)
        # Before any evidence the heads should say what is common: the usual reward, and that here nothing ends.
        last = cast("nn.Linear", self.outcome[-1])
        last.weight.data.zero_()
        last.bias.data[: 2 * _BINS] = 0.0
        last.bias.data[-1] = bias

    def warm_start(self, older: TrainableWorldModel) -> None:
        """The older weights, and the scales that they know; only the ranges are the new data's.

        Anew, with a warning, where the new data reaches further than these scales can tell.
        """
        assert isinstance(older, RssmWorldModel)
        if not self.senses.within(older.senses):
            warnings.warn(
                "the new data reaches so far beyond the older model's that its scales cannot tell it apart: this fit "
                "begins anew, and needs the updates of a whole one",
                stacklevel=2,
            )
            return
        kept = {name: value for name, value in self.state_dict().items() if _is_range(name)}
        self.load_state_dict(older.state_dict() | kept)

    def for_inference(self) -> RssmWorldModel:
        """The same model for fast steps without gradients, its small layers in fewer calls."""
        fast = copy.copy(self)
        prepared = {
            name: PreparedDense(getattr(self, name)) for name in ("taken", "prior", "outcome")
        }
        fast._modules = {**self._modules, **prepared}
        return fast

    # -- states ----------------------------------------------------------------------------------------------------

    def encode(self, context: Context, *, rng: CounterRNG) -> State:
        """The first observation of each row from the initial memory, then all that follow."""
        first = {key: value[:, 0] for key, value in context.observations.items()}
        embedded = self.senses.encode(first)
        deter = self.initial.tanh().expand(len(embedded), -1)
        state = self._seen(deter, embedded, rng)
        for place in range(context.actions.shape[1]):
            observation = {key: value[:, place + 1] for key, value in context.observations.items()}
            newer = self.observe(state, context.actions[:, place], observation, rng=rng)
            state = replace(state, context.length > place + 1, newer)
        return state

    def observe(
        self, state: State, action: Tensor, observation: Observation, *, rng: CounterRNG
    ) -> State:
        """The memory takes in the action, the posterior what came of it."""
        return self._seen(self._remember(state, action), self.senses.encode(observation), rng)

    def step(
        self,
        state: State,
        action: Tensor,
        *,
        rng: CounterRNG,
        temperature: float = 1.0,
        uncertainty: Uncertainty = False,
    ) -> tuple[State, Prediction]:
        """The memory takes in the action, the prior says what may come of it.

        `Prediction.uncertainty`: standard deviation of what the doubters say of the next categoricals, root mean square
        over the groups.
        """
        arrived = self._imagine(state, action, rng, temperature)
        bins, logit = self._outcome(self.features(arrived))
        rewards = self._reward_units(bins)
        prediction = Prediction(
            rewards[:, 0],
            (logit - self.log_terminal_weight).sigmoid(),
            rewards[:, 1],
            self._doubt(arrived["deter"]) if uncertainty else None,
        )
        return arrived, prediction

    def decode(self, state: State) -> Observation:
        """What the state looks like."""
        return self.senses.decode(self.features(state))

    def features(self, state: State) -> Tensor:
        """(B, H + S): the memory and the categoricals."""
        return torch.cat([state["deter"], state["stoch"]], -1)

    def _remember(self, state: State, action: Tensor) -> Tensor:
        """(B, H): the memory after an action, as a gated recurrent unit keeps it."""
        deter = state["deter"]
        taken = self.taken(torch.cat([state["stoch"], action], -1))
        reset, candidate, update = self.gates(torch.cat([taken, deter], -1)).chunk(3, -1)
        candidate = (reset.sigmoid() * candidate).tanh()
        return deter.lerp(candidate, update.sigmoid())

    def _imagine(
        self, state: State, action: Tensor, rng: CounterRNG, temperature: float = 1.0
    ) -> State:
        """The next state as the prior has it."""
        deter = self._remember(state, action)
        stoch = self._draw(self._shares(self.prior(deter)), rng, temperature)
        return {"deter": deter, "stoch": stoch}

    def _seen(self, deter: Tensor, embedded: Tensor, rng: CounterRNG) -> State:
        """The state that has taken in an observation. deter: its memory, of what came before."""
        return {"deter": deter, "stoch": self._draw(self._posterior(deter, embedded), rng)}

    def _posterior(self, deter: Tensor, embedded: Tensor) -> Tensor:
        """(B, groups, classes)."""
        return self._shares(self.posterior(torch.cat([deter, embedded], -1)))

    def _shares(self, logits: Tensor) -> Tensor:
        """(..., S) logits as (..., groups, classes) probabilities, a little of them uniform."""
        shares = logits.unflatten(-1, (self.config.groups, self.config.classes)).softmax(-1)
        return shares * (1.0 - self.config.unimix) + self.config.unimix / self.config.classes

    def _draw(self, shares: Tensor, rng: CounterRNG, temperature: float = 1.0) -> Tensor:
        """(B, S): one class a group, (B, groups, classes) probabilities; gradients go through as if it were these."""
        threshold = rng.uniform(self.config.groups, dtype=shares.dtype)[..., None]
        if temperature == 0.0:
            likeliest = shares.argmax(-1)
            drawn = functional.one_hot(likeliest, self.config.classes).to(shares.dtype)
        else:
            sharp = shares
            if temperature != 1.0:
                # In terms of the likeliest: small shares to a high power would all be 0.
                sharp = (shares / shares.amax(-1, keepdim=True)) ** (1.0 / temperature)
            cumulative = sharp.detach().cumsum(-1)
            # The first class that reaches the threshold; the last one always does.
            reached = (cumulative >= threshold * cumulative[..., -1:]).to(shares.dtype)
            drawn = torch.cat([reached[..., :1], reached.diff(dim=-1)], -1)
        if shares.requires_grad:
            drawn = drawn + shares - shares.detach()
        return drawn.flatten(-2)

    def _outcome(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """((..., 2, bins) of the reward of a usual step and of one that terminates, weighted logit of termination)."""
        said = self.outcome(features)
        return said[..., :-1].unflatten(-1, (2, _BINS)), said[..., -1]

    def _reward_units(self, logits: Tensor) -> Tensor:
        """(B, 2) expected rewards of (B, 2, bins): of a usual step, and of one that terminates."""
        center, scale = self.reward.unbind(1)
        low, high = self.reward_range
        return torch.addcmul(center, logits.softmax(-1) @ self.bins, scale).clamp(low, high)

    def _doubt(self, deter: Tensor) -> Tensor:
        said = self.doubters(deter[None]).unflatten(-1, (self.config.groups, self.config.classes))
        return said.softmax(-1).var(0, correction=0).sum(-1).mean(-1).sqrt()

    # -- learning --------------------------------------------------------------------------------------------------

    def window(self, progress: float) -> int:
        """The same all the way."""
        return self.config.window

    def loss(
        self, batch: Batch, *, rng: CounterRNG, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What filtered states say of their windows, and the two ways between prior and posterior."""
        config = self.config
        rows, steps = batch.valid.shape
        folded = {key: value.flatten(0, 1) for key, value in batch.observations.items()}
        embedded = self.senses.encode(folded).unflatten(0, (rows, steps + 1))
        valid = batch.valid.to(embedded.dtype)
        seen = torch.cat([torch.ones_like(valid[:, :1]), valid], 1)
        deter, stoch, posterior = self._filter(embedded, batch.actions, rng)
        prior = self._shares(self.prior(deter))
        parts = self._prediction_loss(torch.cat([deter, stoch], -1), batch, seen, rng)
        parts["dynamics"] = config.dynamics_weight * weighted_mean(
            self._surprise(posterior.detach(), prior), seen
        )
        parts["representation"] = config.representation_weight * weighted_mean(
            self._surprise(posterior, prior.detach()), seen
        )
        said = self.doubters(deter.detach().flatten(0, 1)[None])
        said = said.unflatten(-1, posterior.shape[-2:]).log_softmax(-1)
        target = posterior.detach().flatten(0, 1)
        parts["doubters"] = weighted_mean(-(said * target).sum((-1, -2)).sum(0), seen.flatten())
        logs = {name: part.detach() for name, part in parts.items()}
        return torch.stack(list(parts.values())).sum(), logs

    def _filter(
        self, embedded: Tensor, actions: Tensor, rng: CounterRNG
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(memories (B, T+1, H), draws (B, T+1, S), posteriors (B, T+1, groups, classes)) of whole windows."""
        deter = self.initial.tanh().expand(len(embedded), -1)
        memories: list[Tensor] = []
        draws: list[Tensor] = []
        posteriors: list[Tensor] = []
        for place in range(embedded.shape[1]):
            if place:
                last = {"deter": memories[-1], "stoch": draws[-1]}
                deter = self._remember(last, actions[:, place - 1])
            memories.append(deter)
            posteriors.append(self._posterior(deter, embedded[:, place]))
            draws.append(self._draw(posteriors[-1], rng))
        deter, stoch, posterior = (torch.stack(each, 1) for each in (memories, draws, posteriors))
        return deter, stoch, posterior

    def _prediction_loss(
        self, features: Tensor, batch: Batch, seen: Tensor, rng: CounterRNG
    ) -> dict[str, Tensor]:
        """What the states (B, T+1, F) of a window say of observations, rewards and ends."""
        parts = {"observation": self._observation_loss(features, batch.observations, seen, rng)}
        # The state of the first observation has no reward: it was not arrived at.
        arrived, valid = features[:, 1:], seen[:, 1:]
        ended, rewards = batch.terminated, batch.rewards
        bins, logit = self._outcome(arrived)
        usual, terminal = bins.unbind(-2)
        parts["reward"] = self._reward_loss(usual, rewards, 0, valid * (1.0 - ended))
        parts["terminal_reward"] = self._reward_loss(terminal, rewards, 1, valid * ended)
        weight = self.log_terminal_weight.exp()
        parts["termination"] = weighted_mean(
            functional.binary_cross_entropy_with_logits(
                logit, ended, pos_weight=weight, reduction="none"
            ),
            valid,
        )
        return parts

    def _observation_loss(
        self, features: Tensor, real: Observation, seen: Tensor, rng: CounterRNG
    ) -> Tensor:
        """What states (B, N, F) look like; images at some of the N places only, at others for every row."""
        vectors = {key: real[key].flatten(0, 1) for key in self.senses.vectors}
        missed = self.senses.miss_vectors(features.flatten(0, 1), vectors)
        loss = weighted_mean(missed, seen.flatten())
        if not self.senses.images:
            return loss
        rows, places = seen.shape
        chosen = rng.uniform(places).argsort(-1)[:, : math.ceil(self.config.decoded * places)]
        row = torch.arange(rows, device=chosen.device)[:, None]
        images = {key: real[key][row, chosen].flatten(0, 1) for key in self.senses.images}
        missed = self.senses.miss_images(features[row, chosen].flatten(0, 1), images)
        return loss + weighted_mean(missed, seen[row, chosen].flatten())

    def _reward_loss(self, logits: Tensor, rewards: Tensor, kind: int, weight: Tensor) -> Tensor:
        center, scale = self.reward[kind]
        return weighted_mean(two_hot_loss(logits, (rewards - center) / scale, self.bins), weight)

    def _surprise(self, posterior: Tensor, prior: Tensor) -> Tensor:
        """(B, T+1) KL(posterior || prior) over all groups, free up to `free_nats`."""
        divergence = (posterior * (posterior.log() - prior.log())).sum((-1, -2))
        return divergence.clamp(min=self.config.free_nats)


def two_hot_loss(logits: Tensor, value: Tensor, bins: Tensor) -> Tensor:
    """Cross-entropy (...) of (..., bins) logits with a value's share in the two bins beside it.

    Source: DreamerV3, arXiv:2301.04104, eq. 11: the expected value of the bins is then the mean of the values.
    """
    value = value.clamp(bins[0], bins[-1])
    above = torch.searchsorted(bins, value.contiguous()).clamp(1, len(bins) - 1)
    low, high = bins[above - 1], bins[above]
    share = ((value - low) / (high - low))[..., None]
    said = logits.log_softmax(-1)
    below = said.gather(-1, above[..., None] - 1) * (1.0 - share)
    return -(below + said.gather(-1, above[..., None]) * share).squeeze(-1)


def _is_range(name: str) -> bool:
    return name == "reward_range" or name.endswith((".low", ".high"))
