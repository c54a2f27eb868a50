"""Protocol of world models. The simulator and the fit use only what is defined here.

A world model is a set of pure functions on batch rows, from state to state:

- Nothing is stored between calls, and inputs are not modified.
- Rows are independent: a row's result does not depend on the other rows of the batch or on their number.
- All random numbers come from the `CounterRNG` argument, which has one stream per row.

`world_env.testing.check_world_model` tests these properties.

The letters in shapes (B rows, A action size, *O observation shape, F feature size, T steps) are explained in
`world_env.batch`. All observations and actions are encoded (`world_env.codec`): a model receives floats only.
"""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from world_env.batch import Batch, Context, Observation, State, Statistics
from world_env.rng import CounterRNG
from world_env.spec import WorldSpec
from world_env.types import JSON, Uncertainty


@dataclass(frozen=True)
class Prediction:
    """Result of one step, besides the next state.

    reward: (B,) float, reward of the step in task units, if the episode does not terminate at this step.
    terminated: (B,) float in [0, 1], calibrated probability that the real environment terminates at this step. The
        simulator applies time limits; they are not part of it.
    terminal_reward: (B,) float, reward of the step in task units, if the episode terminates at this step; None: equal
        to `reward`. A separate value keeps goal bonuses and crash penalties out of the reward of all other steps.
    uncertainty: (B,) float >= 0, model uncertainty of the step, 0 if certain. The unit is the family's own; the twin
        stores a threshold in the same unit. None if it was not requested or the family has no estimate.
    extras: name -> (B, ...), other results of the family. Those of shape (B,) are numbers in `info` under their name.
        "frame", (B, 3, H, W) or (B, 1, H, W) float in [0, 1], is what `render()` returns after the step.
    """

    reward: Tensor
    terminated: Tensor
    terminal_reward: Tensor | None = None
    uncertainty: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)


class WorldModel(nn.Module, ABC):
    """Base class of world models: learned or exact dynamics on encoded tensors.

    A subclass implements `encode`, `observe`, `step`, `decode` and `features`, names its `config_class`, and is
    registered with `world_env.register_world_model` or as an entry point of the group `world_env.models`. Weights and
    all other fitted numbers are parameters or buffers, so that `state_dict` holds the whole model.

    spec: spaces and time limit of the environment.
    config: settings of the family, a `config_class`.
    """

    config_class: ClassVar[type[Any]]
    """Class of the settings: a frozen dataclass or msgspec.Struct that can be stored as JSON and may hold others."""
    presets: ClassVar[Mapping[str, JSON]] = {}
    """Named settings for a fit: name -> fields of the config that differ from their defaults, as JSON."""
    spec: WorldSpec
    conditioning: Mapping[str, tuple[int, ...]] = {}
    """Values that hold for a whole episode, such as a prompt embedding, a one-hot task or physical parameters: name ->
    shape of one value. `Context.conditioning` has them, so `encode` writes what later steps need into the state."""
    context: int = 1
    """Number of real observations K from which `encode` infers the best state. `encode` accepts any K >= 1."""
    scored_by_draws: bool = False
    """Whether the model is evaluated by its random rollouts (energy scores) and not by its most likely rollout. Set it
    if a single rollout is one of several possible outcomes and stays consistent with that outcome."""

    def __init__(self, spec: WorldSpec, config: Any) -> None:
        super().__init__()
        self.spec = spec
        self.config = config

    @property
    def dtype(self) -> torch.dtype:
        """Float type of the weights, and of observations and actions as the model gets them (default: float32)."""
        tensors = itertools.chain(self.parameters(), self.buffers())
        return next((each.dtype for each in tensors if each.is_floating_point()), torch.float32)

    def inert_buffers(self) -> tuple[str, ...]:
        """Names of buffers whose current values have no effect; fingerprints of twins ignore them.

        List a buffer that is added to a family later while it has no effect: twins saved without it still load, and
        keep their fingerprint.
        """
        return ()

    def completed(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Complete stored weights that an earlier version of the family saved (default: unchanged).

        Adds what the family got later, such that the function stays the same. Does not modify `weights`.
        """
        return weights

    def observed_termination(
        self, state: State, action: Tensor, observation: Observation
    ) -> Tensor | None:
        """Compute the termination probability (B,) of real transitions, for the scores and the threshold of a twin.

        state: before the step. action: (B, A). observation: key -> (B, *O), the real one after the step.
        None (default): `step` is scored in its place. Where steps draw one of several outcomes, that would compare the
        end of one outcome with another outcome.
        """
        return None

    def for_inference(self) -> WorldModel:
        """Return a model with the current weights, prepared for fast steps without gradients (default: this model)."""
        return self

    def frozen(self) -> WorldModel:
        """Return a model with the current weights whose steps have gradients with respect to their inputs only."""
        if not any(each.requires_grad for each in self.parameters()):
            return self
        return copy.deepcopy(self).requires_grad_(False)

    @abstractmethod
    def encode(self, context: Context, *, rng: CounterRNG) -> State:
        """Infer the state after the last observation of a context.

        context: real observations and actions of each row; a length of 1 must be enough.
        Returns the state, name -> (B, ...). Names, dtypes and trailing shapes are the family's choice.
        """

    @abstractmethod
    def observe(
        self, state: State, action: Tensor, observation: Observation, *, rng: CounterRNG
    ) -> State:
        """Update the state with one more real observation.

        action: (B, A), the action between `state` and `observation`. observation: key -> (B, *O).
        Returns the new state, with the names, dtypes and shapes of `state`.
        """

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
        """Predict one step of every row.

        action: (B, A), encoded.
        temperature: scale of the model's noise; 1 is the learned noise, 0 the most likely outcome.
        uncertainty: whether to compute `Prediction.uncertainty`: False, True (the cheap estimate) or "full".
        Returns (next state, prediction). The next state has the names, dtypes and shapes of `state`.
        """

    @abstractmethod
    def decode(self, state: State) -> Observation:
        """Compute the observation of a state, key -> (B, *O), encoded. Deterministic."""

    @abstractmethod
    def features(self, state: State) -> Tensor:
        """Compute the features of a state, (B, F) float: the observation of policies in latent space. Deterministic."""


class TrainableWorldModel(WorldModel):
    """World model that is fitted to windows of real episodes by gradient descent.

    A subclass also implements `prepare`, `window` and `loss`.
    """

    windows: int = 640
    """Windows per gradient step (default of a fit)."""
    select_from: float = 0.5
    """Share of the gradient steps, in [0, 1], after which the weights with the smallest validation error are selected.
    Larger where the validation error is noisy: late weights differ little, because the learning rate is small."""
    learning_rate: float = 1e-3
    """Peak learning rate (default of a fit)."""
    batch_context: int = 1
    """Number of observations K in `Batch.context`, which `loss` gets where it is larger than 1."""

    @abstractmethod
    def prepare(self, statistics: Statistics) -> None:
        """Set the normalisers from the statistics of the data. Called once, before the fit."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups of the optimizer (default: one group of all parameters with gradients).

        A group is a dict as torch.optim.AdamW takes it: "params", and options such as "weight_decay" in place of those
        of the fit. "lr_scale" is the group's learning rate relative to that of the fit (default: 1). Parameters with
        `requires_grad=False` are frozen and belong to no group.
        """
        return [{"params": [each for each in self.parameters() if each.requires_grad]}]

    def after_update(self, batch: Batch) -> None:
        """Update weights that have no gradients, such as averaged copies and codebooks (default: nothing).

        Called without gradients after each gradient step, with the batch of the step. Results belong in parameters or
        buffers: checkpoints hold `state_dict`, so an interrupted fit resumes exactly.
        """

    def warm_start(self, older: TrainableWorldModel) -> None:
        """Take over the weights of an older model of the same family, config and spec. Called after `prepare`.

        The older model was fitted to other data, so its normalisers differ. Convert its weights such that this model
        computes the same function. The default does nothing: the fit starts from scratch.
        """

    def shift_termination(self, log_odds: float) -> bool:
        """Add a constant to the log-odds of termination; return whether the family can (default: False).

        A fit calls it if the predicted probabilities do not sum up to the number of terminations.
        """
        return False

    @abstractmethod
    def window(self, progress: float) -> int:
        """Number of steps T of the windows that `loss` needs; at most the length of the longest episode is used.

        progress: share of the gradient steps that are done, in [0, 1].
        """

    @abstractmethod
    def loss(
        self, batch: Batch, *, rng: CounterRNG, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the training loss of a batch of windows.

        progress: share of the gradient steps that are done, in [0, 1]. A family may use it as a schedule, for example
            from one-step to multi-step prediction.
        Returns (loss, parts): a scalar with gradients, and name -> detached tensor for the log.
        """
