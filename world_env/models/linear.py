"""Linear world model: the baseline family, and a short example of the protocol."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from world_env.batch import Batch, Context, Observation, State, Statistics
from world_env.models.base import Prediction, TrainableWorldModel
from world_env.models.layers.normalizer import Normalizer
from world_env.models.layers.turns import Turns
from world_env.models.layers.vector_layout import VectorLayout
from world_env.rng import CounterRNG
from world_env.spaces import action_size
from world_env.spec import WorldSpec
from world_env.struct import Struct
from world_env.types import Uncertainty

_RIDGE = 1e-9
"""Ridge penalty, relative to the sum of squares of a normalised column: it only selects one of equal solutions."""


class LinearConfig(Struct, frozen=True, kw_only=True):
    """Settings of the linear family: none."""


class _LeastSquares:
    """Incremental least squares: the sums of products of all rows so far."""

    def __init__(self) -> None:
        self._gram = self._moment = torch.zeros(())

    def solve(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Add inputs (N, I) and targets (N, J); solve for all rows so far.

        Returns the weight (J, I) and the bias (J,).
        """
        inputs = functional.pad(inputs, (0, 1), value=1.0).double()
        self._gram = self._gram + inputs.T @ inputs
        self._moment = self._moment + inputs.T @ targets.double()
        # One-hot actions sum to the bias column, so the solution is not unique: take about the smallest one.
        ridge = _RIDGE * self._gram[-1, -1] * torch.eye(*self._gram.shape).to(self._gram)
        weight, bias = (
            torch.linalg.solve(self._gram + ridge, self._moment)
            .float()
            .split([inputs.shape[1] - 1, 1])
        )
        return weight.T, bias[0]


class LinearWorldModel(TrainableWorldModel):
    """Change of a vector observation as a linear function of observation and action. Angles of the spec turn.

    Change and reward are solved in closed form after each gradient step, by least squares over all batches since the
    fit started or was resumed. Only termination, a logistic regression, is trained by gradient descent.

    State: observation (B, D).
    Raises UnsupportedSpaceError for image observations.
    """

    config_class = LinearConfig

    def __init__(self, spec: WorldSpec, config: LinearConfig) -> None:
        super().__init__(spec, config)
        self.layout = VectorLayout(spec, family="linear")
        self.normalizer = Normalizer(self.layout)
        self.turns = Turns(spec, self.layout)
        actions = action_size(spec.action_space)
        self.change = nn.Linear(self.layout.size + actions, self.layout.size)
        self.outcome = nn.Linear(3 * self.layout.size + actions, 2)
        for layer in (self.change, self.outcome):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self._change_sums, self._reward_sums = _LeastSquares(), _LeastSquares()

    def inert_buffers(self) -> tuple[str, ...]:
        """Buffers of the normaliser that have no effect for this data."""
        return self.normalizer.inert_buffers("normalizer")

    def prepare(self, statistics: Statistics) -> None:
        """Set the normaliser; initialise the termination bias to the share of terminal steps."""
        self.normalizer.prepare(statistics)
        share = min(max(statistics.terminal_fraction, 1e-6), 0.5)
        nn.init.constant_(self.outcome.bias, 0.0)
        self.outcome.bias.data[1] = torch.logit(torch.tensor(share))

    def encode(self, context: Context, *, rng: CounterRNG) -> State:
        """Return the newest observation as the state."""
        return {"observation": self.layout.flatten(context.last())}

    def observe(
        self, state: State, action: Tensor, observation: Observation, *, rng: CounterRNG
    ) -> State:
        """Replace the state by the new observation."""
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
        """Predict one step. Deterministic; this family has no uncertainty estimate (None)."""
        vector = state["observation"]
        change = self._change(vector, action)
        arrived = self.normalizer.arrive(vector, change)
        if self.turns:
            arrived = self.turns.apply(vector, change, arrived, self.normalizer.change_scale)
        reward, logit = self.outcome(self.normalizer.transition(vector, action, arrived)).unbind(-1)
        prediction = Prediction(self.normalizer.reward_units(reward), logit.sigmoid())
        return {"observation": arrived}, prediction

    def decode(self, state: State) -> Observation:
        """Return the state, which is the observation."""
        return self.layout.unflatten(state["observation"])

    def features(self, state: State) -> Tensor:
        """Return the normalised observation, (B, D)."""
        return self.normalizer.normalize(state["observation"])

    def window(self, progress: float) -> int:
        """Return 1: all windows have one step."""
        return 1

    def loss(
        self, batch: Batch, *, rng: CounterRNG, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the cross-entropy of termination, and for the log the errors of change and reward."""
        inputs, transition, change, rewards = self._regression(batch)
        reward, logit = self.outcome(transition).unbind(-1)
        termination = functional.binary_cross_entropy_with_logits(logit, batch.terminated[:, 0])
        return termination, {
            "change": functional.mse_loss(self.change(inputs), change).detach(),
            "reward": functional.mse_loss(reward, rewards).detach(),
            "terminated": termination.detach(),
        }

    def after_update(self, batch: Batch) -> None:
        """Solve for change and reward."""
        inputs, transition, change, rewards = self._regression(batch)
        weight, bias = self._change_sums.solve(inputs, change)
        self.change.weight.copy_(weight)
        self.change.bias.copy_(bias)
        weight, bias = self._reward_sums.solve(transition, rewards[:, None])
        self.outcome.weight[0], self.outcome.bias[0] = weight[0], bias[0]

    def _regression(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(inputs of the change, inputs of reward and termination, changes, rewards) of windows of one step."""
        vectors = self.layout.flatten(batch.observations)
        vector, arrived, action = vectors[:, 0], vectors[:, 1], batch.actions[:, 0]
        change = self.normalizer.change(vector, arrived)
        if self.turns:
            change = self.turns.changes(vector, arrived, change, self.normalizer.change_scale)
        change = change.clamp(-10.0, 10.0)
        rewards = self.normalizer.normalize_reward(batch.rewards[:, 0])
        transition = self.normalizer.transition(vector, action, arrived)
        return self._inputs(vector, action), transition, change, rewards

    def _inputs(self, vector: Tensor, action: Tensor) -> Tensor:
        return torch.cat([self.normalizer.normalize(vector), action], -1)

    def _change(self, vector: Tensor, action: Tensor) -> Tensor:
        return self.change(self._inputs(vector, action))
