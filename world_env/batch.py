"""Batches of tensors that the data, the models and the simulator exchange.

Time alignment:
    observation[t] --action[t]--> reward[t], terminated[t], observation[t+1]
An episode or window has one more observation than actions, rewards and terminated flags, as in Minari.

Letters in shapes:
    A   size of an encoded action
    B   batch rows: environments stepped together, windows, or other independent samples
    D   flat size of an observation: the product of O
    E   ensemble members
    F   size of the features of a state
    K   context observations
    N   number of rows where it may differ from B
    *O  shape of one encoded observation of a key
    T   steps of a window
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace as with_fields

import torch
from torch import Tensor
from torch.nn import functional

Observation = dict[str, Tensor]
"""Encoded observation: key -> (B, *O) float. A space that is not a Dict has the one key "observation"."""
State = dict[str, Tensor]
"""State of a world model: name -> (B, ...). Names, dtypes and trailing shapes are the same after every step."""


@dataclass(frozen=True)
class Context:
    """Last real observations of each row, oldest first. A model infers its state from them.

    observations: key -> (B, K, *O) float, encoded; entries from `length` on are padding. Images may be stored as uint8;
        `to` and `last` convert them to floats in [0, 1].
    actions: (B, K-1, A) float, encoded; action k leads from observation k to observation k+1.
    length: (B,) int64 in 1..K, number of observations of each row; 1 at the start of an episode.
    elapsed: (B,) int64, steps from the start of the real episode to the last observation.
    conditioning: name -> (B, ...) float, values that hold for a whole episode, such as a prompt embedding, a one-hot
        task or physical parameters. The names are those of `WorldModel.conditioning`.
    """

    observations: Observation
    actions: Tensor
    length: Tensor
    elapsed: Tensor
    conditioning: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_observation(
        cls,
        observation: Observation,
        action_size: int,
        conditioning: dict[str, Tensor] | None = None,
    ) -> Context:
        """Create the context at the start of an episode: one observation (B, *O) per row, and no action."""
        first = next(iter(observation.values()))
        rows = first.shape[0]
        return cls(
            {key: value[:, None] for key, value in observation.items()},
            first.new_zeros((rows, 0, action_size), dtype=torch.float32),
            torch.ones(rows, dtype=torch.int64, device=first.device),
            torch.zeros(rows, dtype=torch.int64, device=first.device),
            conditioning or {},
        )

    def __len__(self) -> int:
        return self.length.shape[0]

    def last(self) -> Observation:
        """Newest observation of each row, key -> (B, *O) float; uint8 images are converted to [0, 1]."""
        # Not len(), which would fix the number of rows of an exported graph.
        rows = torch.arange(self.length.shape[0], device=self.length.device)
        newest = {key: value[rows, self.length - 1] for key, value in self.observations.items()}
        return {
            key: unpacked(value) if value.dtype is torch.uint8 else value
            for key, value in newest.items()
        }

    def padded(self, length: int) -> Context:
        """Pad to K = `length` observations by repeating the last entry. A longer context is returned unchanged."""
        missing = length - 1 - self.actions.shape[1]
        if missing <= 0:
            return self
        return with_fields(
            self,
            observations={
                key: torch.cat([value, value[:, -1:].expand(-1, missing, *value.shape[2:])], 1)
                for key, value in self.observations.items()
            },
            actions=functional.pad(self.actions, (0, 0, 0, missing)),
        )

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Context:
        """Move to a device and convert floats to `dtype`; uint8 images become floats in [0, 1]."""
        return Context(
            {key: unpacked(value.to(device), dtype) for key, value in self.observations.items()},
            self.actions.to(device, dtype),
            self.length.to(device),
            self.elapsed.to(device),
            {name: value.to(device, dtype) for name, value in self.conditioning.items()},
        )

    def select(self, rows: Tensor) -> Context:
        """Select rows by index (N,); indices may repeat."""
        return Context(
            select(self.observations, rows),
            self.actions[rows],
            self.length[rows],
            self.elapsed[rows],
            select(self.conditioning, rows),
        )


@dataclass(frozen=True)
class Batch:
    """Windows of real episodes, encoded by the codec and aligned as in this module's docstring.

    observations: key -> (B, T+1, *O) float32.
    actions: (B, T, A) float32.
    rewards: (B, T) float32, in task units, not scaled.
    terminated: (B, T) float32, 1 where the real environment terminated, else 0; a time limit is 0.
    valid: (B, T) bool, False for steps after the end of the episode.
    conditioning: name -> (B, ...) float32, as in `Context`.
    context: first observation of each window with those before it, where the model asks for it
        (`TrainableWorldModel.batch_context`).
    """

    observations: Observation
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    valid: Tensor
    conditioning: dict[str, Tensor] = field(default_factory=dict)
    context: Context | None = None

    def __len__(self) -> int:
        return self.actions.shape[0]

    def start(self) -> Observation:
        """First observation of each window, key -> (B, *O)."""
        return {key: value[:, 0] for key, value in self.observations.items()}


@dataclass(frozen=True)
class Statistics:
    """Statistics of encoded data. Models set their normalisers from them, once, before a fit.

    center, scale: key -> (D,): robust location and scale of each observation dimension; scale > 0.
    change_scale: key -> (D,): robust scale of the change per step, > 0.
    low, high: key -> (D,): range of the data with its margin (`data_range.widened`); models predict within it.
    carried: key -> (D,): 0 for a dimension that rests at its center and returns there soon after each deviation,
        else 1.
    unit_vectors: key -> (D,) int64: group number of dimensions whose squares sum to 1 in every state (the cosine and
        sine of an angle, a quaternion); -1 for dimensions without a group.
    categories: key -> (D,) int64: group number of dimensions of which exactly one is 1 and all others are 0 in every
        state (a one-hot); -1 for dimensions without a group. A key that is missing has no groups.
    reward_center, reward_scale: robust location and scale of the reward of a step that does not terminate, in task
        units.
    terminal_reward_center, terminal_reward_scale: the same for steps that terminate; equal to the two above if no step
        terminates.
    reward_low, reward_high: range of the reward of one step in the data, in task units.
    terminal_fraction: share of steps that terminate, in [0, 1].
    """

    center: Observation
    scale: Observation
    change_scale: Observation
    low: Observation
    high: Observation
    carried: Observation
    unit_vectors: Observation
    reward_center: float
    reward_scale: float
    terminal_reward_center: float
    terminal_reward_scale: float
    reward_low: float
    reward_high: float
    terminal_fraction: float
    categories: Observation = field(default_factory=dict)


def unpacked(value: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Convert uint8 images to floats in [0, 1]; convert all other tensors to `dtype`."""
    return value.to(dtype) / 255.0 if value.dtype == torch.uint8 else value.to(dtype)


def select(tensors: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """Select rows of every tensor by index (N,); indices may repeat."""
    return {name: value[rows] for name, value in tensors.items()}


def replace(old: dict[str, Tensor], mask: Tensor, new: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the rows of `new` where `mask` (B,) bool is True, and those of `old` elsewhere. Inputs are not modified."""
    return {
        name: torch.where(mask.view(-1, *[1] * (value.ndim - 1)), new[name], value)
        for name, value in old.items()
    }


def concatenate(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Concatenate the rows of all parts."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
