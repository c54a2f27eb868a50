"""Least squares of the change and the reward: the baseline, and the proof that nothing else knows the family."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from world_env.batch import Batch, Context, Observation, State, Statistics
from world_env.models.base import Prediction, TrainableWorldModel
from world_env.models.layers.normalizer import Normalizer
from world_env.models.layers.vector_layout import VectorLayout
from world_env.rng import CounterRNG
from world_env.spaces import action_size
from world_env.spec import WorldSpec
from world_env.types import Uncertainty

_RIDGE = 1e-9
"""Pull towards zero, in units of a normalised column's own weight: only ties notice it."""


@dataclass(frozen=True)
class LinearConfig:
    """Nothing to choose: least squares has no sizes."""


class _LeastSquares:
    """The products of all rows seen so far: what least squares needs to know of them."""

    def __init__(self) -> None:
        self._gram = self._moment = torch.zeros(())

    def solve(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Add rows (N, I) and (N, O); returns weight (O, I) and bias (O,) that suit all rows best."""
        inputs = functional.pad(inputs, (0, 1), value=1.0).double()
        self._gram = self._gram + inputs.T @ inputs
        self._moment = self._moment + inputs.T @ targets.double()
        # One-hot actions sum to the bias: of the equally good solutions, about the smallest.
        ridge = _RIDGE * self._gram[-1, -1] * torch.eye(*self._gram.shape).to(self._gram)
        weight, bias = (
            torch.linalg.solve(self._gram + ridge, self._moment)
            .float()
            .split([inputs.shape[1] - 1, 1])
        )
        return weight.T, bias[0]


class LinearWorldModel(TrainableWorldModel):
    """The change of a vector observation as a linear function of observation and action.

    `loss` solves for the change and the reward in closed form, over all batches since the fit began (or went on
    after a kill): only termination, a logistic regression, is left to the gradient.
    """

    def __init__(self, spec: WorldSpec, config: LinearConfig) -> None:
        super().__init__(spec, config)
        self.layout = VectorLayout(spec, family="linear")
        self.normalizer = Normalizer(self.layout)
        actions = action_size(spec.action_space)
        self.change = nn.Linear(self.layout.size + actions, self.layout.size)
        self.outcome = nn.Linear(3 * self.layout.size + actions, 2)
        for layer in (self.change, self.outcome):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self._change_sums, self._reward_sums = _LeastSquares(), _LeastSquares()

    def inert_buffers(self) -> tuple[str, ...]:
        """The ties of data that has none."""
        return self.normalizer.inert_buffers("normalizer")

    def prepare(self, statistics: Statistics) -> None:
        """Take over the scales; start from the share of steps that terminated."""
        self.normalizer.prepare(statistics)
        share = min(max(statistics.terminal_fraction, 1e-6), 0.5)
        nn.init.constant_(self.outcome.bias, 0.0)
        self.outcome.bias.data[1] = torch.logit(torch.tensor(share))

    def encode(self, context: Context, *, rng: CounterRNG) -> State:
        """The newest observation is the state."""
        return {"observation": self.layout.flatten(context.last())}

    def observe(
        self, state: State, action: Tensor, observation: Observation, *, rng: CounterRNG
    ) -> State:
        """The new observation replaces the state."""
        return {"observation": self.layout.flatten(observation)}

    def step(
        self,
        state: State,
        action: Tensor,
        *,
        rng: CounterRNG,
        temperature: float = 1.0,
        uncertainty: Uncertainty = False,
    ) -> tuple[State, Prediction]:
        """Deterministic; uncertainty is unknown to this family (None)."""
        vector = state["observation"]
        arrived = self.normalizer.arrive(vector, self._change(vector, action))
        reward, logit = self.outcome(self.normalizer.transition(vector, action, arrived)).unbind(-1)
        prediction = Prediction(self.normalizer.reward_units(reward), logit.sigmoid())
        return {"observation": arrived}, prediction

    def decode(self, state: State) -> Observation:
        """The state is the observation."""
        return self.layout.unflatten(state["observation"])

    def features(self, state: State) -> Tensor:
        """(B, D) normalised observation."""
        return self.normalizer.normalize(state["observation"])

    def window(self, progress: float) -> int:
        """One step, always."""
        return 1

    def loss(
        self, batch: Batch, *, rng: CounterRNG, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of termination over one step; change and reward are solved, not descended."""
        vectors = self.layout.flatten(batch.observations)
        vector, arrived, action = vectors[:, 0], vectors[:, 1], batch.actions[:, 0]
        change = self.normalizer.change(vector, arrived).clamp(-10.0, 10.0)
        rewards = self.normalizer.normalize_reward(batch.rewards[:, 0])
        transition = self.normalizer.transition(vector, action, arrived)
        with torch.no_grad():
            weight, bias = self._change_sums.solve(self._inputs(vector, action), change)
            self.change.weight.copy_(weight)
            self.change.bias.copy_(bias)
            weight, bias = self._reward_sums.solve(transition, rewards[:, None])
            self.outcome.weight[0], self.outcome.bias[0] = weight[0], bias[0]
        reward, logit = self.outcome(transition).unbind(-1)
        ended = functional.binary_cross_entropy_with_logits(logit, batch.terminated[:, 0])
        return ended, {
            "change": functional.mse_loss(self._change(vector, action), change).detach(),
            "reward": functional.mse_loss(reward, rewards).detach(),
            "terminated": ended.detach(),
        }

    def _inputs(self, vector: Tensor, action: Tensor) -> Tensor:
        return torch.cat([self.normalizer.normalize(vector), action], -1)

    def _change(self, vector: Tensor, action: Tensor) -> Tensor:
        return self.change(self._inputs(vector, action))
