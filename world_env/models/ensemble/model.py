"""Probabilistic ensemble for vector observations; fits and steps fast on a CPU.

Design, with sources in brackets:
- Members share no weights. Each row uses one member until its episode ends, so a rollout is consistent
  [TS-infinity: Chua et al. 2018, arXiv:1805.12114].
- A member predicts the change of the normalised observation, with LayerNorm and a last layer initialised to zero
  [NEUBAY]. Unit vectors (cosine and sine of an angle) are normalised after each step, and dimensions that rest at their
  center are predicted from there: both limit the accumulation of errors.
- Training starts with the one-step Gaussian likelihood and ends with multi-step rollouts of the mean. A model trained
  on one step only can be worse than "no change" after a few hundred steps [Lambert et al. 2022; RWM, arXiv:2501.10100].
- The likelihood uses a Huber loss, so a dimension with rare spikes does not dominate the others
  [benchmarks/diagnostics/scales.py].
- Reward and termination are predicted from the whole transition. The reward of terminal steps has its own output, so a
  goal bonus does not affect the reward of other steps.
- The rare terminal class has a larger weight in the loss. The logarithm of the weight is subtracted from the logit, so
  the probability stays calibrated.
- Categories (`layers.categories`) are learned by their likelihood and drawn in every step, so the state holds exact
  one-hots. Only numbers are rolled out in the multi-step part, along the categories of the data: the mean of a random
  category is no state.
- The uncertainty is a running average of the disagreement with one other member at a time. It costs a fraction of a
  comparison of all members at each step, at nearly the same quality [benchmarks/diagnostics/uncertainty.py].
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from world_env.batch import Batch, Context, Observation, State, Statistics
from world_env.data_range import widened
from world_env.models.base import Prediction, TrainableWorldModel
from world_env.models.ensemble.config import EnsembleConfig
from world_env.models.ensemble.history import History
from world_env.models.layers.categories import Categories
from world_env.models.layers.ensemble_mlp import MemberMLP, PreparedMLP, RowGroups
from world_env.models.layers.frozen_mlp import FrozenMLP
from world_env.models.layers.fused_activation import compiled_gradients, compiled_loops
from world_env.models.layers.losses import terminal_weight, weighted_mean
from world_env.models.layers.normalizer import Normalizer
from world_env.models.layers.rescaling import Rescaling
from world_env.models.layers.seen_pairs import SeenPairs
from world_env.models.layers.vector_layout import VectorLayout
from world_env.rng import CounterRNG
from world_env.spaces import action_size, observation_spaces
from world_env.spec import WorldSpec
from world_env.types import Uncertainty

__all__ = ["EnsembleConfig", "EnsembleWorldModel"]

_MAX_COMPILED_ROWS = 64
"""Largest batch for which the compiled step is faster than the tensor operations."""
_MAX_SMALL_TABLE = 128
"""Largest number of columns of a table, an observation of categories only, that is fitted with larger batches."""
_TABLE_WINDOWS, _TABLE_LEARNING_RATE = 1920, 2e-3
"""Defaults of a fit to a small table. Rare states are then in more batches: in a slippery grid world of 16 states with
20,000 random steps the probability of impossible moves is half of that with the usual batches."""
_UNSEEN = 10.0
"""Uncertainty of a pair of state and action that was not trained. The largest one of trained pairs is below 1."""
_NO_ESTIMATE = -1.0
"""Disagreement of a row before the first estimate."""


class EnsembleWorldModel(TrainableWorldModel):
    """Ensemble of independent probabilistic networks; each row of a batch uses one of them.

    State: observation (B, D); member (B,) int64, the member of the row; disagreement (B,), average squared
    disagreement so far, -1 before the first estimate; looks (B,) int64, number of steps with an estimate; with
    `EnsembleConfig.history` also history (B, K - 1, D + A), see `History`.
    Raises UnsupportedSpaceError for image observations.
    """

    config_class = EnsembleConfig
    log_terminal_weight: Tensor
    _compiled_step: Callable[..., Any] | None = None
    _step_once: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] | None = None
    """Step of a frozen model without an estimate of the uncertainty, as one autograd node."""

    def __init__(self, spec: WorldSpec, config: EnsembleConfig) -> None:
        super().__init__(spec, config)
        self.config: EnsembleConfig = config
        self.layout = VectorLayout(spec, family="ensemble")
        self.normalizer = Normalizer(self.layout)
        self.categories = Categories(observation_spaces(spec.observation_space), self.layout.shapes)
        self.pairs = SeenPairs(spec)
        size, actions = self.layout.size, action_size(spec.action_space)
        self.history = History(config.history, self.layout, actions)
        self.context = self.batch_context = config.history
        inputs = size + actions + len(self.history) + len(self.categories.prefix)
        self.dynamics = MemberMLP(config.members, inputs, config.width, config.layers, 2 * size)
        self.heads = MemberMLP(config.members, 3 * size + actions, config.head_width, 2, 3)
        self.register_buffer("log_terminal_weight", torch.zeros(()))

    def inert_buffers(self) -> tuple[str, ...]:
        """Buffers of the normaliser, the categories and the pairs that have no effect for this data."""
        inert = self.normalizer.inert_buffers("normalizer")
        inert += self.categories.inert_buffers("categories")
        return inert if len(self.pairs) else (*inert, "pairs.seen")

    @property
    def scored_by_draws(self) -> bool:  # type: ignore[override]
        """True with categories: a rollout is then one of several possible outcomes."""
        return len(self.categories) > 0

    @property
    def select_from(self) -> float:  # type: ignore[override]
        """Later with categories: the error of random rollouts is noisy, and every gradient step improves the tables."""
        return 0.9 if len(self.categories) else 0.5

    def completed(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a model without categories or pairs compute the same function in one that could have them."""
        if "pairs.seen" not in weights:
            weights = weights | {"pairs.seen": torch.ones_like(self.pairs.seen)}
        if "categories.group" in weights:
            return weights
        name, prefix = "dynamics.weights.0", len(self.categories.prefix)
        weights = weights | {"categories.group": torch.full((self.layout.size,), -1)}
        if prefix and name in weights:
            weights[name] = functional.pad(weights[name], (0, 0, 0, prefix))
        return weights

    def prepare(self, statistics: Statistics) -> None:
        """Set the normaliser and the weight of terminal steps."""
        self.normalizer.prepare(statistics)
        self.categories.prepare(statistics)
        one_hot = self.categories.group >= 0
        # With the margin that is subtracted again: a category is never outside of the range of the data.
        low, high = widened(0.0, 1.0)
        self.normalizer.low.masked_fill_(one_hot, low)
        self.normalizer.high.masked_fill_(one_hot, high)
        if not len(self.categories.numbers) and self.layout.size <= _MAX_SMALL_TABLE:
            self.windows, self.learning_rate = _TABLE_WINDOWS, _TABLE_LEARNING_RATE
        log_weight, bias = terminal_weight(
            statistics.terminal_fraction, self.config.terminal_weight
        )
        self.log_terminal_weight.fill_(log_weight)
        self.heads.biases[-1].data[:, :, 2] = bias

    def warm_start(self, older: TrainableWorldModel) -> None:
        """Take over the older members, converted to the scales of this model."""
        assert isinstance(older, EnsembleWorldModel)
        if not torch.equal(self.categories.group >= 0, older.categories.group >= 0):
            warnings.warn(
                "no warm start: the new data have different one-hot columns from the data of the older model. This fit "
                "starts from scratch and needs the gradient steps of a full fit",
                stacklevel=2,
            )
            return
        self.normalizer.carry_as(older.normalizer)
        self.pairs.seen.copy_(older.pairs.seen)
        rescaling = Rescaling.between(older.normalizer, self.normalizer)
        actions = action_size(self.spec.action_space)
        weight = (self.log_terminal_weight - older.log_terminal_weight)[None]
        outcome = (
            torch.cat([rescaling.reward_gain, torch.ones_like(weight)]),
            torch.cat([rescaling.reward_shift, weight]),
        )
        self.dynamics.take_over(
            older.dynamics,
            self._rescaled_inputs(rescaling, actions),
            rescaling.noisy_change(),
        )
        self.heads.take_over(older.heads, rescaling.transition(actions), outcome)

    def _rescaled_inputs(self, rescaling: Rescaling, actions: int) -> tuple[Tensor, Tensor]:
        """(gain, shift) of the inputs of the dynamics: observation, action, history and prefix."""
        own = rescaling.observation_action(actions)
        prefix = own[0].new_ones(len(self.categories.prefix))
        gain, shift = (torch.cat([each] * self.config.history) for each in own)
        return torch.cat([gain, prefix]), torch.cat([shift, torch.zeros_like(prefix)])

    def for_inference(self) -> EnsembleWorldModel:
        """Return the model for fast steps without gradients; small batches on the CPU use the compiled step."""
        dtype = self.normalizer.center.dtype
        fast = copy.copy(self)
        prepared = {
            "dynamics": PreparedMLP(self.dynamics, dtype, outputs=self._outputs()),
            "heads": PreparedMLP(self.heads, dtype),
        }
        fast._modules = {**self._modules, **prepared}
        cpu = dtype == torch.float32 and self.normalizer.center.device.type == "cpu"
        if cpu and self._is_simple():
            fast._compiled_step = self._compile_step()
        return fast

    def frozen(self) -> EnsembleWorldModel:
        """Return a copy with constant weights, whose steps have gradients with respect to their inputs."""
        frozen = copy.deepcopy(self).requires_grad_(False)
        frozen._modules["dynamics"] = FrozenMLP(self.dynamics, outputs=self._outputs())
        frozen._modules["heads"] = FrozenMLP(self.heads)
        plain = self.normalizer.plain and self._is_simple()
        single = self.dtype == torch.float32 and self.normalizer.center.device.type == "cpu"
        if plain and single and compiled_gradients() is not None:
            from world_env.models.ensemble import frozen_step

            scales = frozen._kernel_scales(compiled_loops())
            frozen._step_once = partial(frozen_step.frozen_step, frozen, scales)
        return frozen

    def _is_simple(self) -> bool:
        """Whether the compiled loops cover the model: they have no categories, no prefix and no history."""
        return not (len(self.categories) or len(self.categories.prefix) or len(self.history))

    def _compile_step(self) -> Callable[..., Any] | None:
        """Compiled step of small batches, with the networks and scales bound; None if numba is not available."""
        compiled = compiled_loops()
        if compiled is None:
            return None
        scales = self._kernel_scales(compiled)
        networks = [compiled.Network.of(network) for network in (self.dynamics, self.heads)]
        return partial(compiled.step_rows, networks[0], networks[1], scales)

    def _kernel_scales(self, compiled: Any) -> Any:
        """Constants of a step for the compiled loops, `KernelScales` of the module `compiled`."""
        return compiled.KernelScales.of(
            self.normalizer,
            std_low=math.exp(self.config.log_std_min),
            std_high=math.exp(self.config.log_std_max),
            log_std_max=self.config.log_std_max,
            log_terminal_weight=float(self.log_terminal_weight),
        )

    def encode(self, context: Context, *, rng: CounterRNG) -> State:
        """Take the newest observation, and draw the member that the row uses for its whole episode."""
        member = rng.integers(self.config.members)
        state = self._fresh(self.layout.flatten(context.last()), member)
        return state | {"history": self.history.of(context)} if len(self.history) else state

    def observe(
        self, state: State, action: Tensor, observation: Observation, *, rng: CounterRNG
    ) -> State:
        """Replace the observation; the row keeps its member."""
        observed = self._fresh(self.layout.flatten(observation), state["member"])
        return observed | self._later_history(state, action)

    def _later_history(self, state: State, action: Tensor) -> State:
        """The entry of the history after a step, if there is one."""
        if not len(self.history):
            return {}
        return {"history": self.history.after(state["history"], state["observation"], action)}

    def _fresh(self, vector: Tensor, member: Tensor) -> State:
        return {
            "observation": vector,
            "member": member,
            "disagreement": torch.full_like(vector[:, 0], _NO_ESTIMATE),
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
        """Predict one step of each row with the row's member.

        `Prediction.uncertainty` is the sum of two terms, in units of the typical change per step: the disagreement of
        the members' mean next observation (root mean square over the dimensions), and the distance to the range of the
        data, because members can agree on wrong predictions outside of it (for tables: `SeenPairs`). "full"
        compares all members at each step. True compares all members at the first step of a row, then one other member
        every `partner_every` steps, and averages.
        """
        vector, member = state["observation"], state["member"]
        if self._compiled_step is not None and len(member) <= _MAX_COMPILED_ROWS:
            return self._step_compiled(state, action, rng, temperature, uncertainty)
        groups = RowGroups.of(member, self.config.members)
        if self._step_once is not None and not uncertainty:
            noise = temperature * rng.normal(self.layout.size)
            arrived, reward, at_end, ends = self._step_once(vector, action, noise, groups)
            return {**state, "observation": arrived}, Prediction(reward, ends, at_end)
        normalized = self.normalizer.normalize(vector)
        inputs = self._inputs(normalized, action, state.get("history"))
        if len(self.categories):
            inputs, mean, change, arrived = self._arrive_in_categories(
                vector, inputs, groups, rng, temperature
            )
        else:
            inputs = self._with_prefix(inputs)
            mean, raw = self.dynamics.own(inputs, groups).chunk(2, -1)
            noise = rng.normal(self.layout.size, dtype=mean.dtype)
            change = torch.addcmul(mean, self._deviation(raw), noise, value=temperature)
            arrived = self.normalizer.arrive(vector, change)
        transition = [normalized, action, *self.normalizer.arrival(vector, arrived)]
        outcome = self.heads.own(torch.cat(transition, -1), groups)
        reward, terminal_reward, logit = outcome.unbind(-1)
        estimate = {name: state[name] for name in ("disagreement", "looks")}
        total = None
        if uncertainty:
            estimate = self._update_disagreement(state, inputs, mean, uncertainty)
            outside = self.normalizer.outside(vector, change)
            if len(self.pairs):
                outside = outside + _UNSEEN * self.pairs.unseen(vector, action)
            total = estimate["disagreement"].sqrt() + outside
        prediction = Prediction(
            self.normalizer.reward_units(reward),
            (logit - self.log_terminal_weight).sigmoid(),
            self.normalizer.reward_units(terminal_reward, terminal=True),
            total,
        )
        later = self._later_history(state, action)
        return {"observation": arrived, "member": member, **estimate, **later}, prediction

    def _inputs(self, normalized: Tensor, action: Tensor, history: Tensor | None) -> Tensor:
        """Inputs of the dynamics without a prefix: observation (..., D), action (..., A), and the history if any."""
        parts = [normalized, action]
        if history is not None:
            parts.append(self.history.inputs(history, self.normalizer))
        return torch.cat(parts, -1)

    def _with_prefix(self, inputs: Tensor, vector: Tensor | None = None) -> Tensor:
        """Inputs (..., D + A) of the dynamics with the prefix of `vector` (..., D); None: the empty prefix."""
        if not len(self.categories.prefix):
            return inputs
        if vector is None:
            return functional.pad(inputs, (0, len(self.categories.prefix)))
        return torch.cat([inputs, self.categories.prefix_of(vector)], -1)

    def _arrive_in_categories(
        self, vector: Tensor, inputs: Tensor, groups: RowGroups, rng: CounterRNG, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One step of observations with categories, stage by stage (`Categories`).

        inputs: (B, D + A), normalised observation and action.
        Returns (inputs with the empty prefix, outputs (B, D) for them, change, arrived), each (B, ...); the change of
        categories is 0.
        """
        categories, numbers = self.categories, self.categories.numbers
        fraction = rng.uniform(len(categories), dtype=vector.dtype)
        empty = self._with_prefix(inputs)
        outputs = self.dynamics.own(empty, groups)
        mean = outputs[:, : self.layout.size]
        drawn = torch.zeros_like(vector)
        for number, stage in enumerate(categories.stages):
            if number:
                outputs = self.dynamics.own(self._with_prefix(inputs, drawn), groups)
            if stage:
                logits = outputs[:, : self.layout.size]
                drawn = drawn + categories.draw(logits, stage, fraction, temperature)
        change = torch.zeros_like(vector)
        if not len(numbers):
            return empty, mean, change, drawn
        moves, raw = (part.index_select(-1, numbers) for part in outputs.chunk(2, -1))
        noise = rng.normal(len(numbers), dtype=moves.dtype)
        moves = torch.addcmul(moves, self._deviation(raw), noise, value=temperature)
        change = change.index_copy(-1, numbers, moves)
        arrived = self.normalizer.arrive(vector, change)
        return empty, mean, change, torch.where(categories.group >= 0, drawn, arrived)

    def observed_termination(
        self, state: State, action: Tensor, observation: Observation
    ) -> Tensor | None:
        """Termination probability of real transitions, with categories; see `WorldModel`."""
        if not len(self.categories):
            return None
        arrived = self.layout.flatten(observation)
        transition = self.normalizer.transition(state["observation"], action, arrived)
        groups = RowGroups.of(state["member"], self.config.members)
        logit = self.heads.own(transition, groups)[:, 2]
        return (logit - self.log_terminal_weight).sigmoid()

    def _step_compiled(
        self,
        state: State,
        action: Tensor,
        rng: CounterRNG,
        temperature: float,
        uncertainty: Uncertainty,
    ) -> tuple[State, Prediction]:
        """`step` through the compiled loops of `numba_kernels`."""
        assert self._compiled_step is not None
        noise = rng.normal(self.layout.size)
        inputs = (state["observation"], action, state["member"], state["disagreement"])
        looks = state["looks"]
        scaled = noise if temperature == 1.0 else noise * temperature
        arrived, outcome, estimate = self._compiled_step(
            *[value.numpy() for value in (*inputs, looks, scaled)],
            2 if uncertainty == "full" else int(uncertainty),
            self.config.partner_every,
        )
        reward, terminal_reward, probability, disagreement, total = (
            torch.from_numpy(values) for values in (*outcome, *estimate)
        )
        state = {
            "observation": torch.from_numpy(arrived),
            "member": state["member"],
            "disagreement": disagreement,
            "looks": looks + 1 if uncertainty else looks,
        }
        prediction = Prediction(
            reward, probability, terminal_reward, total if uncertainty else None
        )
        return state, prediction

    def _update_disagreement(
        self, state: State, inputs: Tensor, own: Tensor, uncertainty: Uncertainty
    ) -> dict[str, Tensor]:
        """`disagreement` and `looks` after this step. own: (B, D) mean change predicted by the row's member."""
        average, looks = state["disagreement"], state["looks"]
        others = self.config.members - 1
        if uncertainty == "full":
            return {"disagreement": self._disagreement(inputs), "looks": looks + 1}
        first = average < 0
        if bool(first.any()):
            rows = first.nonzero().squeeze(1)
            average = average.index_copy(0, rows, self._disagreement(inputs[rows]))
        due = ((looks % self.config.partner_every == 0) & ~first).nonzero().squeeze(1)
        if len(due):
            # The other members take turns, so the average covers all of them.
            turn = 1 + looks[due] // self.config.partner_every % others
            partner = (state["member"][due] + turn) % self.config.members
            groups = RowGroups(partner, self.config.members)
            other = self.dynamics.own(inputs[due], groups)[:, : self.layout.size]
            # The sample variance of two values is half their squared difference.
            apart = self._comparable(own[due]) - self._comparable(other)
            variance = self._over_columns(apart.square()) * 0.5
            average = average.index_copy(0, due, average[due].lerp(variance, 1.0 / others))
        return {"disagreement": average, "looks": looks + 1}

    def decode(self, state: State) -> Observation:
        """Return the observation of the state."""
        return self.layout.unflatten(state["observation"])

    def features(self, state: State) -> Tensor:
        """Return the normalised observation and history, (B, F)."""
        features = self.normalizer.normalize(state["observation"])
        if not len(self.history):
            return features
        past = self.history.inputs(state["history"], self.normalizer)
        return torch.cat([features, past], -1)

    def shift_termination(self, log_odds: float) -> bool:
        """Add a constant to the log-odds of termination."""
        self.log_terminal_weight -= log_odds
        return True

    def after_update(self, batch: Batch) -> None:
        """Remember the pairs of state and action that were trained."""
        if len(self.pairs):
            self.pairs.add(self.layout.flatten(batch.observations)[:, 0], batch.actions[:, 0])

    def window(self, progress: float) -> int:
        """Return 1 in the one-step part of the fit, then `rollout`; always 1 if all columns are categories."""
        one_step = progress < self.config.one_step_share or not len(self.categories.numbers)
        return 1 if one_step else self.config.rollout

    def loss(
        self, batch: Batch, *, rng: CounterRNG, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the negative log-likelihood of one step, and the multi-step error of the mean if T > 1.

        Each member is trained on its own share of the rows.
        """
        members = self.config.members
        rows = len(batch) // members * members
        split = lambda value: value[:rows].unflatten(0, (members, -1))  # noqa: E731
        vectors = split(self.layout.flatten(batch.observations))
        actions, valid = split(batch.actions), split(batch.valid).to(vectors.dtype)
        parts = self._outcome_loss(
            vectors, actions, split(batch.rewards), split(batch.terminated), valid
        )
        start, arrived = vectors[:, :, 0], vectors[:, :, 1]
        context = batch.context if len(self.history) else None
        history = None if context is None else split(self.history.of(context))
        inputs = self._inputs(self.normalizer.normalize(start), actions[:, :, 0], history)
        stage = self._random_stage(rng, rows)
        if stage is None:
            inputs = self._with_prefix(inputs)
        else:
            inputs = torch.cat([inputs, self.categories.prefix_of(arrived, stage)], -1)
        outputs = self.dynamics(inputs, outputs=self._outputs())
        mean = outputs[..., : self.layout.size]
        error = self.normalizer.change(start, arrived) - mean
        if len(self.categories):
            parts["categories"], probabilities = self._category_loss(
                mean, arrived, valid[:, :, 0], stage
            )
        if len(self.categories.numbers):
            _, log_std = self._change(outputs)
            parts["change"] = self._change_loss(error, log_std, valid[:, :, 0])
        if actions.shape[2] > 1 and len(self.categories.numbers):
            parts["rollout"] = self._rollout_loss(vectors, actions, valid, mean, history)
        logs = {name: part.detach() for name, part in parts.items()}
        if len(self.categories):
            error = torch.where(self.categories.group >= 0, arrived - probabilities, error)
        logs["per_dimension"] = error.detach().square().mean((0, 1)).sqrt()
        return torch.stack(list(parts.values())).sum(), logs

    def _change_loss(self, error: Tensor, log_std: Tensor, valid: Tensor) -> Tensor:
        """Negative log-likelihood of the changes of one step (E, N, D). error: target minus mean."""
        if len(self.categories):
            error, log_std = (
                part.index_select(-1, self.categories.numbers) for part in (error, log_std)
            )
        scaled = error * (-log_std).exp()
        misfit = functional.huber_loss(
            scaled, torch.zeros_like(scaled), reduction="none", delta=self.config.huber_delta
        )
        # beta-NLL: without the weight, noisy or badly fitted samples have almost no effect on the mean.
        weight = (2.0 * self.config.beta * log_std).exp().detach()
        likelihood = weight * (misfit + log_std)
        return weighted_mean(likelihood.mean(-1), valid)

    def _random_stage(self, rng: CounterRNG, rows: int) -> Tensor | None:
        """Stage (E, N) that each window trains: the prefix of the earlier stages is given to the network."""
        stages = len(self.categories.stages)
        if not len(self.categories.prefix) or stages < 2:
            return None
        stage = (rng.uniform(1)[:rows, 0] * stages).to(torch.int64).clamp(max=stages - 1)
        return stage.unflatten(0, (self.config.members, -1))

    def _category_loss(
        self, logits: Tensor, arrived: Tensor, valid: Tensor, stage: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Mean loss of the groups that are not part of the prefix, and probabilities (E, N, D).

        arrived: (E, N, D). valid, stage: (E, N).
        """
        loss, probabilities = self.categories.loss(logits, arrived)
        if stage is None:
            return weighted_mean(loss.mean(-1), valid), probabilities
        weight = self.categories.open(stage).to(valid.dtype)
        return weighted_mean(loss, weight * valid[..., None]), probabilities

    def _outputs(self) -> int:
        """Number of outputs of the dynamics that have an effect: categories have no noise."""
        return self.layout.size * (2 if len(self.categories.numbers) else 1)

    def _rollout_loss(
        self,
        vectors: Tensor,
        actions: Tensor,
        valid: Tensor,
        mean: Tensor,
        history: Tensor | None,
    ) -> Tensor:
        """Multi-step error of the mean on windows (E, N, T, ...), from the predicted first step `mean` (E, N, D).

        Categories are those of the data, before and after each step. history: before the first step.
        """
        steps, categories = actions.shape[2], self.categories
        vector, total = vectors[:, :, 0], mean.new_zeros(())
        for step in range(1, steps):
            if history is not None:
                history = self.history.after(history, vector, actions[:, :, step - 1])
            vector = self.normalizer.moved(vector, mean)
            if len(categories):
                vector = torch.where(categories.group >= 0, vectors[:, :, step], vector)
            inputs = self._inputs(self.normalizer.normalize(vector), actions[:, :, step], history)
            arrived = vectors[:, :, step + 1]
            if len(categories.prefix):
                inputs = self._with_prefix(inputs, arrived if len(categories) else None)
            # Only the mean is rolled out, so the outputs of the noise are not needed.
            mean = self.dynamics(inputs, outputs=self.layout.size)
            target = self.normalizer.change(vector, arrived)
            error = functional.smooth_l1_loss(mean, target, reduction="none")
            if len(categories):
                error = error.index_select(-1, categories.numbers)
            total = total + weighted_mean(error.mean(-1), valid[:, :, step])
        return 10.0 * total / (steps - 1)

    def _outcome_loss(
        self, vectors: Tensor, actions: Tensor, rewards: Tensor, terminated: Tensor, valid: Tensor
    ) -> dict[str, Tensor]:
        """Losses of reward and termination on the first, real transition of each window (E, N, ...)."""
        transition = self.normalizer.transition(
            vectors[:, :, 0], actions[:, :, 0], vectors[:, :, 1]
        )
        reward, terminal_reward, logit = self.heads(transition).unbind(-1)
        first, ends = valid[:, :, 0], terminated[:, :, 0]
        target = self.normalizer.normalize_reward(rewards[:, :, 0])
        terminal_target = self.normalizer.normalize_reward(rewards[:, :, 0], terminal=True)
        weight = self.log_terminal_weight.exp()
        cross_entropy = functional.binary_cross_entropy_with_logits(
            logit, ends, pos_weight=weight, reduction="none"
        )
        error = functional.smooth_l1_loss(reward, target, reduction="none")
        terminal_error = functional.smooth_l1_loss(
            terminal_reward, terminal_target, reduction="none"
        )
        return {
            "reward": weighted_mean(error, first * (1.0 - ends)),
            "terminal_reward": weighted_mean(terminal_error, first * ends),
            "terminated": weighted_mean(cross_entropy, first),
        }

    def _change(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, log-std) of the change. The log-std has soft bounds, so its gradient is never 0."""
        mean, raw = outputs.chunk(2, -1)
        low, high = self.config.log_std_min, self.config.log_std_max
        log_std = high - functional.softplus(high - raw)
        return mean, low + functional.softplus(log_std - low)

    def _deviation(self, raw: Tensor) -> Tensor:
        """Standard deviation of the change: the exponential of `_change`'s log-std, computed with one sigmoid."""
        low, high = math.exp(self.config.log_std_min), math.exp(self.config.log_std_max)
        return (raw - self.config.log_std_max).sigmoid() * high + low

    def _disagreement(self, inputs: Tensor) -> Tensor:
        """Variance over all members of the mean change, averaged over the dimensions: (B,)."""
        mean = self.dynamics(inputs[None])[..., : self.layout.size]
        return self._over_columns(self._comparable(mean).var(0))

    def _comparable(self, mean: Tensor) -> Tensor:
        """Outputs (..., D) in which members are compared: changes, and probabilities of categories."""
        return self.categories.probabilities(mean) if len(self.categories) else mean

    def _over_columns(self, squared: Tensor) -> Tensor:
        """Mean over the dimensions (..., D); a group of categories counts as one dimension, with its sum."""
        if not len(self.categories):
            return squared.mean(-1)
        return squared.sum(-1) / (len(self.categories) + len(self.categories.numbers))
