"""A probabilistic ensemble for vector observations: the family that learns well on a CPU.

What it does, and why (evidence in brackets):
- members share nothing, and each row follows one member until its episode ends: an imagined world stays
  consistent with itself, and disagreement stays honest [TS-infinity: Chua et al. 2018, arXiv:1805.12114];
- it predicts the change in normalised space, LayerNorm inside, last layer at zero [NEUBAY]; cosine and sine stay an
  angle's, forces go back to rest: else errors add up where no data lie [benchmarks/README.md, "Agreement"];
- one-step Gaussian likelihood first, then k-step rollouts of the mean, because a one-step model can be worse
  than "nothing moves" after a few hundred steps [Lambert et al. 2022; RWM, arXiv:2501.10100];
- one miss counts by its square up to a few of its own noise's deviations and by its size beyond: a dimension that
  spikes rarely does not outweigh all others [benchmarks/diagnostics/scales.py];
- reward and termination are read from the whole transition; the reward of a terminal step has its own head,
  so that a goal bonus cannot leak to steps that go on;
- the rare terminal class is weighted, and the weight's logarithm is taken off the logit again;
- disagreement is a running average over one other member at a time, all others in turn: a fraction of asking all of
  them at each step, and nearly as good at telling where the model is wrong [benchmarks/diagnostics/uncertainty.py].
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from world_env.batch import Batch, Context, Observation, State, Statistics
from world_env.models.base import Prediction, TrainableWorldModel
from world_env.models.ensemble.config import EnsembleConfig
from world_env.models.layers.ensemble_mlp import MemberMLP, PreparedMLP, RowGroups
from world_env.models.layers.fused_activation import compiled_loops
from world_env.models.layers.losses import terminal_weight, weighted_mean
from world_env.models.layers.normalizer import Normalizer
from world_env.models.layers.rescaling import Units
from world_env.models.layers.vector_layout import VectorLayout
from world_env.rng import CounterRNG
from world_env.spaces import action_size
from world_env.spec import WorldSpec
from world_env.types import Uncertainty

__all__ = ["EnsembleConfig", "EnsembleWorldModel"]

_FEW = 64
"""Rows up to which the compiled step is the quicker one."""
_UNKNOWN = -1.0
"""A row's disagreement before anybody was asked."""


class EnsembleWorldModel(TrainableWorldModel):
    """Independent probabilistic networks, of which a row follows one.

    State: observation (B, D); member (B,) int64; disagreement (B,), mean square so far, -1 before the first look;
    looks (B,) int64, steps since then.
    """

    log_terminal_weight: Tensor
    _few: Callable[..., Any] | None = None

    def __init__(self, spec: WorldSpec, config: EnsembleConfig) -> None:
        super().__init__(spec, config)
        self.config: EnsembleConfig = config
        self.layout = VectorLayout(spec, family="ensemble")
        self.normalizer = Normalizer(self.layout)
        size, actions = self.layout.size, action_size(spec.action_space)
        self.dynamics = MemberMLP(
            config.members, size + actions, config.width, config.layers, 2 * size
        )
        self.heads = MemberMLP(config.members, 3 * size + actions, config.head_width, 2, 3)
        self.register_buffer("log_terminal_weight", torch.zeros(()))

    def inert_buffers(self) -> tuple[str, ...]:
        """The ties of data that has none."""
        return self.normalizer.inert_buffers("normalizer")

    def prepare(self, statistics: Statistics) -> None:
        """Take over the scales, and weigh terminal steps by how rare they are."""
        self.normalizer.prepare(statistics)
        log_weight, bias = terminal_weight(
            statistics.terminal_fraction, self.config.terminal_weight
        )
        self.log_terminal_weight.fill_(log_weight)
        self.heads.biases[-1].data[:, :, 2] = bias

    def warm_start(self, older: TrainableWorldModel) -> None:
        """The older members, in this model's scales."""
        assert isinstance(older, EnsembleWorldModel)
        self.normalizer.carry_as(older.normalizer)
        units = Units.between(older.normalizer, self.normalizer)
        actions = action_size(self.spec.action_space)
        weight = (self.log_terminal_weight - older.log_terminal_weight)[None]
        outcome = (
            torch.cat([units.reward_gain, torch.ones_like(weight)]),
            torch.cat([units.reward_shift, weight]),
        )
        self.dynamics.take_over(
            older.dynamics, units.observation_action(actions), units.noisy_change()
        )
        self.heads.take_over(older.heads, units.transition(actions), outcome)

    def for_inference(self) -> EnsembleWorldModel:
        """The same model for fast steps without gradients."""
        dtype = self.normalizer.center.dtype
        fast = copy.copy(self)
        prepared = {
            name: PreparedMLP(network, dtype)
            for name, network in (("dynamics", self.dynamics), ("heads", self.heads))
        }
        fast._modules = {**self._modules, **prepared}
        if dtype == torch.float32 and self.normalizer.center.device.type == "cpu":
            fast._few = self._few_rows()
        return fast

    def _few_rows(self) -> Callable[..., Any] | None:
        """The compiled step of few rows, with everything but rows filled in; None where numba is not installed."""
        compiled = compiled_loops()
        if compiled is None:
            return None
        scales = compiled.Scales.of(
            self.normalizer,
            std_low=math.exp(self.config.log_std_min),
            std_high=math.exp(self.config.log_std_max),
            log_std_max=self.config.log_std_max,
            log_terminal_weight=float(self.log_terminal_weight),
        )
        networks = [compiled.Network.of(network) for network in (self.dynamics, self.heads)]
        return partial(compiled.step_rows, networks[0], networks[1], scales)

    def encode(self, context: Context, *, rng: CounterRNG) -> State:
        """The newest observation, and a member drawn for the row's whole episode."""
        member = rng.integers(self.config.members)
        return self._fresh(self.layout.flatten(context.last()), member)

    def observe(
        self, state: State, action: Tensor, observation: Observation, *, rng: CounterRNG
    ) -> State:
        """The new observation replaces the old one; the row keeps its member."""
        return self._fresh(self.layout.flatten(observation), state["member"])

    def _fresh(self, vector: Tensor, member: Tensor) -> State:
        return {
            "observation": vector,
            "member": member,
            "disagreement": vector.new_full((len(member),), _UNKNOWN),
            "looks": torch.zeros_like(member),
        }

    def step(
        self,
        state: State,
        action: Tensor,
        *,
        rng: CounterRNG,
        temperature: float = 1.0,
        uncertainty: Uncertainty = False,
    ) -> tuple[State, Prediction]:
        """One step of each row by its own member.

        `Prediction.uncertainty`: disagreement of the members' mean next observation, root mean square over the
        dimensions, plus how far the step leads out of the data's range, both in units of one step's typical
        change: members that were never told may agree on nonsense. "full" asks all members at each step; True asks
        all at a row's first step, then one other member every `partner_every` steps, and averages.
        """
        vector, member = state["observation"], state["member"]
        if self._few is not None and len(member) <= _FEW:
            return self._step_few(state, action, rng, temperature, uncertainty)
        groups = RowGroups.of(member, self.config.members)
        normalized = self.normalizer.normalize(vector)
        inputs = torch.cat([normalized, action], -1)
        mean, raw = self.dynamics.own(inputs, groups).chunk(2, -1)
        noise = rng.normal(self.layout.size, dtype=mean.dtype)
        change = torch.addcmul(mean, self._deviation(raw), noise, value=temperature)
        arrived = self.normalizer.arrive(vector, change)
        seen = [normalized, action, *self.normalizer.arrival(vector, arrived)]
        outcome = self.heads.own(torch.cat(seen, -1), groups)
        reward, bonus, logit = outcome.unbind(-1)
        doubt = {name: state[name] for name in ("disagreement", "looks")}
        doubts = None
        if uncertainty:
            doubt = self._look(state, inputs, mean, uncertainty)
            outside = self.normalizer.outside(vector, change)
            doubts = doubt["disagreement"].sqrt() + outside
        prediction = Prediction(
            self.normalizer.reward_units(reward),
            (logit - self.log_terminal_weight).sigmoid(),
            self.normalizer.reward_units(bonus, terminal=True),
            doubts,
        )
        return {"observation": arrived, "member": member, **doubt}, prediction

    def _step_few(
        self,
        state: State,
        action: Tensor,
        rng: CounterRNG,
        temperature: float,
        uncertainty: Uncertainty,
    ) -> tuple[State, Prediction]:
        assert self._few is not None
        noise = rng.normal(self.layout.size)
        rows = (state["observation"], action, state["member"], state["disagreement"])
        looks = state["looks"]
        scaled = noise if temperature == 1.0 else noise * temperature
        arrived, outcome, doubt = self._few(
            *[value.numpy() for value in (*rows, looks, scaled)],
            2 if uncertainty == "full" else int(uncertainty),
            self.config.partner_every,
        )
        reward, bonus, probability, disagreement, doubts = (
            torch.from_numpy(values) for values in (*outcome, *doubt)
        )
        state = {
            "observation": torch.from_numpy(arrived),
            "member": state["member"],
            "disagreement": disagreement,
            "looks": looks + 1 if uncertainty else looks,
        }
        return state, Prediction(reward, probability, bonus, doubts if uncertainty else None)

    def _look(
        self, state: State, inputs: Tensor, own: Tensor, uncertainty: Uncertainty
    ) -> dict[str, Tensor]:
        """`disagreement` and `looks` after this step. own: (B, D) mean change by each row's own member."""
        known, looks = state["disagreement"], state["looks"]
        others = self.config.members - 1
        if uncertainty == "full":
            return {"disagreement": self._disagreement(inputs), "looks": looks + 1}
        fresh = known < 0
        if bool(fresh.any()):
            rows = fresh.nonzero().squeeze(1)
            known = known.index_copy(0, rows, self._disagreement(inputs[rows]))
        due = ((looks % self.config.partner_every == 0) & ~fresh).nonzero().squeeze(1)
        if len(due):
            # Each of the others in turn, so that the average goes over all of them.
            turn = 1 + looks[due] // self.config.partner_every % others
            partner = (state["member"][due] + turn) % self.config.members
            groups = RowGroups(partner, self.config.members)
            other, _ = self.dynamics.own(inputs[due], groups).chunk(2, -1)
            # Half the squared difference of two is their variance.
            seen = (own[due] - other).square().mean(-1) * 0.5
            known = known.index_copy(0, due, known[due].lerp(seen, 1.0 / others))
        return {"disagreement": known, "looks": looks + 1}

    def decode(self, state: State) -> Observation:
        """The state's observation."""
        return self.layout.unflatten(state["observation"])

    def features(self, state: State) -> Tensor:
        """(B, D) normalised observation."""
        return self.normalizer.normalize(state["observation"])

    def window(self, progress: float) -> int:
        """One step first, `rollout` steps at the end."""
        return 1 if progress < self.config.one_step_share else self.config.rollout

    def loss(
        self, batch: Batch, *, rng: CounterRNG, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Each member learns from its own share of the rows: Gaussian likelihood, then k-step error of the mean."""
        members = self.config.members
        rows = len(batch) // members * members
        split = lambda value: value[:rows].unflatten(0, (members, -1))  # noqa: E731
        vectors = split(self.layout.flatten(batch.observations))
        actions, valid = split(batch.actions), split(batch.valid).to(vectors.dtype)
        parts = self._outcome_loss(
            vectors, actions, split(batch.rewards), split(batch.terminated), valid
        )
        start = vectors[:, :, 0]
        inputs = torch.cat([self.normalizer.normalize(start), actions[:, :, 0]], -1)
        mean, log_std = self._change(self.dynamics(inputs))
        miss = self.normalizer.change(start, vectors[:, :, 1]) - mean
        surprise = miss * (-log_std).exp()
        misfit = functional.huber_loss(
            surprise, torch.zeros_like(surprise), reduction="none", delta=self.config.outlier
        )
        # beta-NLL: without the weight, points that are noisy or badly fitted stop teaching the mean.
        weight = (2.0 * self.config.beta * log_std).exp().detach()
        likelihood = weight * (misfit + log_std)
        parts["change"] = weighted_mean(likelihood.mean(-1), valid[:, :, 0])
        if actions.shape[2] > 1:
            parts["rollout"] = self._rollout_loss(vectors, actions, valid, mean)
        logs = {name: part.detach() for name, part in parts.items()}
        logs["per_dimension"] = miss.detach().square().mean((0, 1)).sqrt()
        return torch.stack(list(parts.values())).sum(), logs

    def _rollout_loss(
        self, vectors: Tensor, actions: Tensor, valid: Tensor, mean: Tensor
    ) -> Tensor:
        """Error of the mean rolled on from its own first step `mean` (E, N, D), for windows (E, N, T, ...)."""
        steps = actions.shape[2]
        vector, total = vectors[:, :, 0], mean.new_zeros(())
        for step in range(1, steps):
            vector = self.normalizer.moved(vector, mean)
            inputs = torch.cat([self.normalizer.normalize(vector), actions[:, :, step]], -1)
            # The noise is not rolled out: its half of the outputs need not be computed.
            mean = self.dynamics(inputs, outputs=self.layout.size)
            target = self.normalizer.change(vector, vectors[:, :, step + 1])
            error = functional.smooth_l1_loss(mean, target, reduction="none").mean(-1)
            total = total + weighted_mean(error, valid[:, :, step])
        return 10.0 * total / (steps - 1)

    def _outcome_loss(
        self, vectors: Tensor, actions: Tensor, rewards: Tensor, terminated: Tensor, valid: Tensor
    ) -> dict[str, Tensor]:
        """Reward and termination of the first, real transition of each window (E, N, ...)."""
        transition = self.normalizer.transition(
            vectors[:, :, 0], actions[:, :, 0], vectors[:, :, 1]
        )
        reward, bonus, logit = self.heads(transition).unbind(-1)
        first, ends = valid[:, :, 0], terminated[:, :, 0]
        target = self.normalizer.normalize_reward(rewards[:, :, 0])
        target_bonus = self.normalizer.normalize_reward(rewards[:, :, 0], terminal=True)
        weight = self.log_terminal_weight.exp()
        cross_entropy = functional.binary_cross_entropy_with_logits(
            logit, ends, pos_weight=weight, reduction="none"
        )
        error = functional.smooth_l1_loss(reward, target, reduction="none")
        error_bonus = functional.smooth_l1_loss(bonus, target_bonus, reduction="none")
        return {
            "reward": weighted_mean(error, first * (1.0 - ends)),
            "terminal_reward": weighted_mean(error_bonus, first * ends),
            "terminated": weighted_mean(cross_entropy, first),
        }

    def _change(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, log-std) of the change; the log-std is clamped softly, so that its gradient never dies."""
        mean, raw = outputs.chunk(2, -1)
        low, high = self.config.log_std_min, self.config.log_std_max
        log_std = high - functional.softplus(high - raw)
        return mean, low + functional.softplus(log_std - low)

    def _deviation(self, raw: Tensor) -> Tensor:
        """The exponential of `_change`'s log-std, with one sigmoid instead of two logarithms and three exponentials."""
        low, high = math.exp(self.config.log_std_min), math.exp(self.config.log_std_max)
        return (raw - self.config.log_std_max).sigmoid() * high + low

    def _disagreement(self, inputs: Tensor) -> Tensor:
        """(B,) variance over all members of the mean change, averaged over the dimensions."""
        mean, _ = self.dynamics(inputs[None]).chunk(2, -1)
        return mean.var(0).mean(-1)
