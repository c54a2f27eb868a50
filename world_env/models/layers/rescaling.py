"""Conversion of a fitted network to new normalisation scales, for a warm start."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from world_env.models.layers.normalizer import Normalizer


@dataclass(frozen=True)
class Rescaling:
    """Linear maps between the normalised values of an older and a newer normaliser.

    gain, shift: (D,); older normalised observation = gain * newer one + shift.
    change, change_shift: (D,); newer normalised change = change * older one + change_shift.
    reward_gain, reward_shift: (2,); newer normalised reward = reward_gain * older one + reward_shift, for steps that do
        not terminate and for steps that terminate.
    """

    gain: Tensor
    shift: Tensor
    change: Tensor
    change_shift: Tensor
    reward_gain: Tensor
    reward_shift: Tensor

    @classmethod
    def between(cls, older: Normalizer, newer: Normalizer) -> Rescaling:
        """Compute the maps from two prepared normalisers with the same layout and equal `carried`."""
        (old_center, old_scale), (center, scale) = older.reward.T, newer.reward.T
        return cls(
            newer.scale / older.scale,
            (newer.center - older.center) / older.scale,
            older.change_scale / newer.change_scale,
            (older.center - newer.center) * (1.0 - newer.carried) / newer.change_scale,
            old_scale / scale,
            (old_center - center) / scale,
        )

    def observation_action(self, actions: int) -> tuple[Tensor, Tensor]:
        """(gain, shift), each (D + A,), of the inputs (observation, action)."""
        return (
            torch.cat([self.gain, self.gain.new_ones(actions)]),
            torch.cat([self.shift, self.shift.new_zeros(actions)]),
        )

    def transition(self, actions: int) -> tuple[Tensor, Tensor]:
        """(gain, shift), each (3 D + A,), of the inputs (observation, action, next observation, change)."""
        gain, shift = self.observation_action(actions)
        return (
            torch.cat([gain, self.gain, 1.0 / self.change]),
            torch.cat([shift, self.shift, torch.zeros_like(self.change)]),
        )

    def noisy_change(self) -> tuple[Tensor, Tensor]:
        """(gain, shift), each (2 D,), of the outputs (mean change, logarithm of its standard deviation)."""
        return (
            torch.cat([self.change, torch.ones_like(self.change)]),
            torch.cat([self.change_shift, self.change.log()]),
        )
