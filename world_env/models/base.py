"""The protocol that every family of world models speaks. The simulator knows nothing else of them.

A world model is a set of pure functions on rows: state in, state out; nothing is remembered between calls,
inputs are never changed, and all noise comes from the `CounterRNG` that is passed in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from world_env.batch import Batch, Context, Observation, State, Statistics
from world_env.rng import CounterRNG
from world_env.spec import WorldSpec
from world_env.types import Uncertainty


@dataclass(frozen=True)
class Prediction:
    """What one step says besides the next state.

    reward: (B,) in task units, where the episode goes on.
    terminated: (B,) calibrated probability in [0, 1] that the real environment terminates here.
    terminal_reward: (B,) in task units, the reward instead where the episode terminates here; None: the same.
        Goal bonuses and crash penalties live there: mixed into `reward` they would leak to steps that go on.
    uncertainty: (B,) >= 0, how far the model is from what it knows; None where it was not asked for.
    extras: anything a family wants to show, (B, ...) each.
    """

    reward: Tensor
    terminated: Tensor
    terminal_reward: Tensor | None = None
    uncertainty: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)


class WorldModel(nn.Module, ABC):
    """Learned (or exact) equations of a world, on encoded tensors."""

    spec: WorldSpec
    context: int = 1
    """Real observations that a state is best inferred from, where there are so many; one is always enough."""
    scored_by_draws: bool = False
    """Whether a rollout is one of many ways that things may be and keeps to it: its held-out errors have to be those of
    draws (energy scores), not of the most likely one."""

    def __init__(self, spec: WorldSpec, config: Any) -> None:
        super().__init__()
        self.spec = spec
        self.config = config

    def inert_buffers(self) -> tuple[str, ...]:
        """Names of buffers that, as they are, change nothing: twins of before they existed count as the same."""
        return ()

    def for_inference(self) -> WorldModel:
        """The same model with its current weights, prepared for fast steps without gradients."""
        return self

    @abstractmethod
    def encode(self, context: Context, *, rng: CounterRNG) -> State:
        """The state inferred from each row's real past; a context of length 1 is always enough."""

    @abstractmethod
    def observe(
        self, state: State, action: Tensor, observation: Observation, *, rng: CounterRNG
    ) -> State:
        """Take in one more real observation: (B, A) led from `state` to `observation` (B, *O)."""

    @abstractmethod
    def step(
        self,
        state: State,
        action: Tensor,
        *,
        rng: CounterRNG,
        temperature: float = 1.0,
        uncertainty: Uncertainty = False,
    ) -> tuple[State, Prediction]:
        """One step of every row with encoded actions (B, A).

        temperature: scales the model's noise; 0 gives its most likely future.
        uncertainty: whether `Prediction.uncertainty` is wanted, and how good.
        """

    @abstractmethod
    def decode(self, state: State) -> Observation:
        """What the agent sees in this state, key -> (B, *O), encoded."""

    @abstractmethod
    def features(self, state: State) -> Tensor:
        """(B, F) float: what a policy on latents sees."""


class TrainableWorldModel(WorldModel):
    """A world model that learns from windows of real episodes by gradient descent."""

    windows: int = 640
    """Windows an update, where nobody says another number."""
    learning_rate: float = 1e-3
    """Peak step size of a fit, where nobody says another one."""

    @abstractmethod
    def prepare(self, statistics: Statistics) -> None:
        """Set the normalisers, once, before fitting."""

    def warm_start(self, older: TrainableWorldModel) -> None:
        """Begin where an older model of the same family, configuration and spec ended; called after `prepare`.

        The older model was fitted to other data and so has other scales: what is taken over must be the same function
        in this model's. Families that solve their weights anew, or know no better, ignore it.
        """

    @abstractmethod
    def window(self, progress: float) -> int:
        """Steps T of the windows that `loss` wants at this progress (0..1) of the fit."""

    @abstractmethod
    def loss(
        self, batch: Batch, *, rng: CounterRNG, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimise and its parts (scalars, detached).

        progress: 0..1, how far the fit is; families may go from one-step to k-step prediction.
        """
