"""Pairs of state and action that the training data of a table show."""

from __future__ import annotations

import itertools
import math
import operator

import torch
from torch import Tensor, nn

from world_env.spaces import category_sizes, observation_spaces
from world_env.spec import WorldSpec


class SeenPairs(nn.Module):
    """Pairs of state and action that were trained, where both are categories and the pairs are few.

    They are the range of the data of a table, as in the unknown state-action detector of MOReL [Kidambi et al. 2020,
    arXiv:2005.05951]: members of an ensemble can agree on a wrong successor of a pair that none of them has seen.

    seen: (N,) bool, one entry a pair; empty if the world is no table (`WorldSpec.is_table`). Saved with the weights.
    """

    seen: Tensor
    _state: Tensor
    _action: Tensor

    def __init__(self, spec: WorldSpec) -> None:
        super().__init__()
        keys = [category_sizes(s) for s in observation_spaces(spec.observation_space).values()]
        actions = category_sizes(spec.action_space)
        sizes = [*itertools.chain(*keys), *actions]
        remembered = spec.is_table
        self.register_buffer(
            "seen", torch.zeros(math.prod(sizes) if remembered else 0, dtype=torch.bool)
        )
        # Part of a pair's number by column of the one-hots. float32 is exact for numbers below 2 ** 24.
        units = [1, *itertools.accumulate(sizes, operator.mul)][: len(sizes)] if remembered else []
        parts = [
            torch.arange(size, dtype=torch.float32) * unit
            for size, unit in zip(sizes, units, strict=False)
        ]
        whole = torch.cat([torch.zeros(0), *parts])
        state, action = whole.split([len(whole) - sum(actions), sum(actions)] if parts else [0, 0])
        self.register_buffer("_state", state.clone(), persistent=False)
        self.register_buffer("_action", action.clone(), persistent=False)

    def __len__(self) -> int:
        """Number of pairs; 0 if they are not remembered."""
        return len(self.seen)

    def _number(self, vector: Tensor, action: Tensor) -> Tensor:
        # Not a matrix product: on a GPU it may round to 10 bits.
        number = (vector * self._state).sum(-1) + (action * self._action).sum(-1)
        return number.round().to(torch.int64)

    def add(self, vector: Tensor, action: Tensor) -> None:
        """Remember the pairs of one-hots (..., D) and (..., A)."""
        self.seen[self._number(vector, action).flatten()] = True

    def unseen(self, vector: Tensor, action: Tensor) -> Tensor:
        """(...,) bool: which pairs of one-hots (..., D) and (..., A) are not among those remembered."""
        return ~self.seen[self._number(vector, action)]
