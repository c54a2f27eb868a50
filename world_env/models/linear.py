"""Linear regression of the change: the baseline, and the proof that nothing else knows the family."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from world_env.batch import Batch, Context, Observation, State, Statistics
from world_env.codec import action_size
from world_env.models.base import Prediction, TrainableWorldModel
from world_env.models.networks import Normalizer, VectorLayout
from world_env.random import RowRandom
from world_env.spec import WorldSpec


@dataclass(frozen=True)
class LinearConfig:
    """Nothing to choose: least squares has no sizes."""


class LinearWorldModel(TrainableWorldModel):
    """The change of a vector observation as a linear function of observation and action."""

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

    def prepare(self, statistics: Statistics) -> None:
        """Take over the scales; start from the share of steps that terminated."""
        self.normalizer.prepare(statistics)
        share = min(max(statistics.terminal_fraction, 1e-6), 0.5)
        nn.init.constant_(self.outcome.bias, 0.0)
        self.outcome.bias.data[1] = torch.logit(torch.tensor(share))

    def encode(self, context: Context, *, random: RowRandom) -> State:
        """The newest observation is the state."""
        return {"observation": self.layout.flatten(context.last())}

    def observe(
        self, state: State, action: Tensor, observation: Observation, *, random: RowRandom
    ) -> State:
        """The new observation replaces the state."""
        return {"observation": self.layout.flatten(observation)}

    def step(
        self,
        state: State,
        action: Tensor,
        *,
        random: RowRandom,
        temperature: float = 1.0,
        uncertainty: bool = False,
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
        self, batch: Batch, *, random: RowRandom, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of the change and the reward, cross-entropy of termination, over one step."""
        vectors = self.layout.flatten(batch.observations)
        vector, arrived, action = vectors[:, 0], vectors[:, 1], batch.actions[:, 0]
        target = ((arrived - vector) / self.normalizer.change_scale).clamp(-10.0, 10.0)
        reward, logit = self.outcome(self.normalizer.transition(vector, action, arrived)).unbind(-1)
        parts = {
            "change": functional.mse_loss(self._change(vector, action), target),
            "reward": functional.mse_loss(
                reward, self.normalizer.normalize_reward(batch.rewards[:, 0])
            ),
            "terminated": functional.binary_cross_entropy_with_logits(
                logit, batch.terminated[:, 0]
            ),
        }
        return torch.stack(list(parts.values())).sum(), {
            name: part.detach() for name, part in parts.items()
        }

    def _change(self, vector: Tensor, action: Tensor) -> Tensor:
        return self.change(torch.cat([self.normalizer.normalize(vector), action], -1))
