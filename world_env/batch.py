"""Rows of tensors: the types that travel between the data, the models and the simulator.

Time alignment, said once:
    observation[t] --action[t]--> reward[t], terminated[t], observation[t+1]
so observations have one more entry than actions, rewards and terminated (as in Minari).

Letters: B rows · T steps of a window · K context observations · A action size · O an observation's own shape
· D its flat size · E ensemble members · F feature size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Observation = dict[str, Tensor]
"""Key -> (B, *O). A plain Box has the one key "observation"."""


State = dict[str, Tensor]
"""Name -> (B, ...). Same names, dtypes and trailing shapes after every step."""


@dataclass(frozen=True)
class Context:
    """The last real observations of each row, oldest first, from which a state is inferred.

    observations: key -> (B, K, *O), encoded; entries from `length` on are padding. Pixels may lie as bytes: `to` makes
        them numbers.
    actions: (B, K-1, A) encoded; action k led from observation k to observation k+1.
    length: (B,) int64 in 1..K; a true start has one observation.
    elapsed: (B,) int64, steps since the real start at the last observation.
    """

    observations: Observation
    actions: Tensor
    length: Tensor
    elapsed: Tensor

    @classmethod
    def from_observation(cls, observation: Observation, action_size: int) -> Context:
        """True starts: one observation (B, *O) a row, nothing before it."""
        first = next(iter(observation.values()))
        rows = first.shape[0]
        return cls(
            {key: value[:, None] for key, value in observation.items()},
            first.new_zeros((rows, 0, action_size), dtype=torch.float32),
            torch.ones(rows, dtype=torch.int64, device=first.device),
            torch.zeros(rows, dtype=torch.int64, device=first.device),
        )

    def __len__(self) -> int:
        return self.length.shape[0]

    def last(self) -> Observation:
        """The newest real observation of each row, key -> (B, *O), numbers also where pixels lie as bytes."""
        rows = torch.arange(len(self), device=self.length.device)
        newest = {key: value[rows, self.length - 1] for key, value in self.observations.items()}
        return {
            key: unpacked(value) if value.dtype is torch.uint8 else value
            for key, value in newest.items()
        }

    def padded(self, length: int) -> Context:
        """The same with room for `length` observations, the last one repeated; no shorter than it is."""
        more = length - 1 - self.actions.shape[1]
        if more <= 0:
            return self
        return Context(
            {
                key: torch.cat([value, value[:, -1:].expand(-1, more, *value.shape[2:])], 1)
                for key, value in self.observations.items()
            },
            functional.pad(self.actions, (0, 0, 0, more)),
            self.length,
            self.elapsed,
        )

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Context:
        """On another device, floats in another precision; bytes become numbers in [0, 1]."""
        return Context(
            {key: unpacked(value.to(device), dtype) for key, value in self.observations.items()},
            self.actions.to(device, dtype),
            self.length.to(device),
            self.elapsed.to(device),
        )

    def select(self, rows: Tensor) -> Context:
        """Some rows, by index (rows may repeat)."""
        return Context(
            select(self.observations, rows),
            self.actions[rows],
            self.length[rows],
            self.elapsed[rows],
        )


@dataclass(frozen=True)
class Batch:
    """Windows cut from real episodes, encoded by the codec, aligned as in this module's docstring.

    observations: key -> (B, T+1, *O).
    actions: (B, T, A) float32.
    rewards: (B, T) float32, in the task's own units, not scaled.
    terminated: (B, T) float32, 1 where the real environment terminated; time limits are 0.
    valid: (B, T) bool, False where the window runs past the episode's end.
    """

    observations: Observation
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    valid: Tensor

    def __len__(self) -> int:
        return self.actions.shape[0]

    def start(self) -> Observation:
        """The first observation of each window, key -> (B, *O)."""
        return {key: value[:, 0] for key, value in self.observations.items()}


@dataclass(frozen=True)
class Statistics:
    """Scales of encoded data, from which models set their normalisers once, before fitting.

    center, scale: key -> (D,): a robust middle and spread of each observation dimension, scale > 0.
    change_scale: key -> (D,): a robust spread of one step's change, > 0.
    low, high: key -> (D,): what the data showed, widened as the models may predict.
    carried: key -> (D,): 0 where a column rests at its center, leaves it now and then and is soon there again, else 1.
    unit_vectors: key -> (D,) int64: a number for all dimensions whose squares sum to 1 in every state, -1 for others.
    reward_center, reward_scale: of one step's reward where the episode goes on, task units.
    terminal_reward_center, terminal_reward_scale: of the reward of steps that terminated; the same as above where
        none did.
    reward_low, reward_high: the range of one step's reward in the data.
    terminal_fraction: share of steps that terminated, in [0, 1].
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


def unpacked(value: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixels that lie as bytes as numbers in [0, 1]; everything else in this precision."""
    return value.to(dtype) / 255.0 if value.dtype == torch.uint8 else value.to(dtype)


def select(rows_of: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """Some rows of every tensor, by (N,) index; rows may repeat."""
    return {name: value[rows] for name, value in rows_of.items()}


def replace(old: dict[str, Tensor], mask: Tensor, new: dict[str, Tensor]) -> dict[str, Tensor]:
    """`new` where `mask` (B,) bool is set, `old` elsewhere; neither input is changed."""
    return {
        name: torch.where(mask.view(-1, *[1] * (value.ndim - 1)), new[name], value)
        for name, value in old.items()
    }


def concatenate(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The rows of all parts, one after another."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
