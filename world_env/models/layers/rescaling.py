"""The same function in other units: how a network goes on when the scales of its data have changed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from world_env.models.layers.normalizer import Normalizer


@dataclass(frozen=True)
class Units:
    """What an older normaliser's numbers are in a newer one's.

    gain, shift: (D,); what the older network saw is gain * what the newer one sees + shift.
    change, change_shift: (D,); a newer change is change * the older one + change_shift.
    reward_gain, reward_shift: (2,) of outputs; a newer normalised reward is gain * the older one + shift, where the
        episode goes on and where it terminates.
    """

    gain: Tensor
    shift: Tensor
    change: Tensor
    change_shift: Tensor
    reward_gain: Tensor
    reward_shift: Tensor

    @classmethod
    def between(cls, older: Normalizer, newer: Normalizer) -> Units:
        """From two prepared normalisers of the same layout that carry the same dimensions."""
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
        """(gain, shift), (D + A,) each, of inputs (observation, action)."""
        return (
            torch.cat([self.gain, self.gain.new_ones(actions)]),
            torch.cat([self.shift, self.shift.new_zeros(actions)]),
        )

    def transition(self, actions: int) -> tuple[Tensor, Tensor]:
        """(gain, shift), (3 D + A,) each, of inputs (observation, action, arrival, change)."""
        gain, shift = self.observation_action(actions)
        return (
            torch.cat([gain, self.gain, 1.0 / self.change]),
            torch.cat([shift, self.shift, torch.zeros_like(self.change)]),
        )

    def noisy_change(self) -> tuple[Tensor, Tensor]:
        """(gain, shift), (2 D,) each, of outputs (mean change, logarithm of its noise)."""
        return (
            torch.cat([self.change, torch.ones_like(self.change)]),
            torch.cat([self.change_shift, self.change.log()]),
        )
