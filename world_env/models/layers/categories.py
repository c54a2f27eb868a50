"""Groups of one-hot columns of a flat vector: likelihood and exact samples of categories."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional

from world_env.batch import Statistics
from world_env.spaces import category_sizes

MAX_ORDERED_GROUPS = 8
"""Largest number of groups that are drawn one after the other, at the cost of one pass through the network each."""
_MAX_ITERATIONS = 100
"""Bound for logits that are not finite; others need about 5."""
_ABSENT = -1e4
"""Logit of a category that a group does not have."""


class Categories(nn.Module):
    """Groups of one-hot columns of a vector (D,). Each group is one category: exactly one of its columns is 1.

    Probabilities are the sparsemax of the logits, and the loss is its Fenchel-Young loss, whose gradient is that of a
    cross-entropy: probability minus target [Martins and Astudillo 2016, arXiv:1602.02068]. Categories that never follow
    get the probability 0. A softmax gives each of them a little, and over many categories and steps a rollout then
    leaves the states that exist.

    Groups of one step may depend on one another: the row and the column of a position do not move independently. The
    groups of Discrete, MultiDiscrete and MultiBinary keys are therefore drawn one after the other, if there are at most
    `MAX_ORDERED_GROUPS`, and everything else after them. What is drawn so far is the prefix: an input of the network.
    Groups that are found in the data of a Box key are drawn independently of one another.

    parts, shapes: space and encoded shape of each key of the vector.
    group: (D,) int64, group number of each column; -1 for columns that are numbers. Saved with the weights.
    prefix: (P,) int64, columns that are the prefix; empty if no other part of the vector could depend on them.
    stages: groups to draw, in order: those of a stage are independent given the prefix. The numbers belong to the last.
    """

    group: Tensor
    prefix: Tensor
    numbers: Tensor
    _columns: Tensor
    _padded: Tensor
    _stage: Tensor
    _prefix_stage: Tensor

    def __init__(
        self, parts: Mapping[str, spaces.Space[Any]], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        super().__init__()
        self.shapes = dict(shapes)
        self.size = sum(map(math.prod, self.shapes.values()))
        group, count, offset = torch.full((self.size,), -1), 0, 0
        for key, shape in self.shapes.items():
            start = offset
            for size in category_sizes(parts[key]):
                group[start : start + size] = count
                start, count = start + size, count + 1
            offset += math.prod(shape)
        self.register_buffer("group", group)
        alone = count == 1 and bool((group == 0).all())
        ordered = 0 < count <= MAX_ORDERED_GROUPS and not alone
        prefix = (group >= 0).nonzero().squeeze(1) if ordered else group.new_zeros(0)
        self.register_buffer("prefix", prefix, persistent=False)
        for name in ("numbers", "_columns", "_padded", "_stage", "_prefix_stage"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64), persistent=False)
        self.look_again()

    def __len__(self) -> int:
        """Number of groups."""
        return self._columns.shape[0]

    def prepare(self, statistics: Statistics) -> None:
        """Set the groups from the statistics of the data."""
        groups = [
            statistics.categories.get(key, torch.full(shape, -1)).flatten()
            for key, shape in self.shapes.items()
        ]
        if groups:
            self.group.copy_(torch.cat(groups))
        self.look_again()

    def look_again(self) -> None:
        """Update everything that follows from `group`, after it was changed."""
        numbers = self.group[self.group >= 0].unique()
        columns = [(self.group == number).nonzero().squeeze(1) for number in numbers]
        # Groups of different sizes are padded with the column D, which no vector has.
        self._columns = (
            nn.utils.rnn.pad_sequence(columns, batch_first=True, padding_value=self.size)
            if columns
            else self.group.new_zeros(0, 0)
        )
        self._padded = self._columns == self.size
        self._uneven = bool(self._padded.any())
        self._whole = len(columns) == 1 and len(columns[0]) == self.size
        self.numbers = (self.group < 0).nonzero().squeeze(1)
        first = self._columns[:, :1]
        known = (
            (first == self.prefix).any(-1) if len(columns) else first.new_zeros(0, dtype=torch.bool)
        )
        ordered = known.nonzero().squeeze(1).tolist()
        others = (~known).nonzero().squeeze(1).tolist()
        self.stages = [[each] for each in ordered]
        if others or len(self.numbers):
            self.stages.append(others)
        # (G,) and (P,): the stages in which a group, and a column of the prefix, are drawn.
        stage = [next(i for i, of in enumerate(self.stages) if g in of) for g in range(len(self))]
        self._stage = self.group.new_tensor(stage)
        self._prefix_stage = self.group.new_zeros(0)
        if len(self) and len(self.prefix):
            number = torch.searchsorted(numbers, self.group[self.prefix])
            self._prefix_stage = self._stage[number]

    def _load_from_state_dict(self, *args: object) -> None:
        super()._load_from_state_dict(*args)
        self.look_again()

    def inert_buffers(self, prefix: str) -> tuple[str, ...]:
        """Inert buffers (`WorldModel.inert_buffers`) of a model whose attribute `prefix` is this module."""
        return () if len(self) else (f"{prefix}.group",)

    def _logits(self, outputs: Tensor, groups: list[int] | None = None) -> Tensor:
        """Logits (..., G, C) of outputs (..., D); very small where a group has fewer than C categories."""
        if self._whole:
            return outputs[..., None, :]
        columns, padded = self._columns, self._padded
        if groups is not None:
            columns, padded = columns[groups], padded[groups]
        logits = self._gather(outputs, columns)
        return logits.masked_fill(padded, _ABSENT) if self._uneven else logits

    def _target(self, vector: Tensor) -> Tensor:
        """One-hots (..., G, C) of a vector (..., D)."""
        if self._whole:
            return vector[..., None, :]
        target = self._gather(vector, self._columns)
        return target.masked_fill(self._padded, 0.0) if self._uneven else target

    def _gather(self, vector: Tensor, columns: Tensor) -> Tensor:
        taken = vector.index_select(-1, columns.flatten().clamp(max=self.size - 1))
        return taken.unflatten(-1, columns.shape)

    def _spread(self, values: Tensor, groups: list[int] | None = None) -> Tensor:
        """Values (..., G, C) in their columns of a vector (..., D); 0 elsewhere."""
        if self._whole:
            return values.squeeze(-2)
        columns = self._columns if groups is None else self._columns[groups]
        vector = values.new_zeros(*values.shape[:-2], self.size + 1)
        return vector.index_copy(-1, columns.flatten(), values.flatten(-2))[..., : self.size]

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Probabilities of the categories, in the columns of the groups; all other columns as in `outputs` (..., D)."""
        inside = self._spread(sparsemax(self._logits(outputs)))
        return torch.where(self.group >= 0, inside, outputs)

    def loss(self, outputs: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of outputs (..., D) for the categories of a vector (..., D): >= 0, and 0 if they are certain and right.

        Returns (loss (..., G), probabilities (..., D)). The probabilities have no gradient.
        """
        logits = self._logits(outputs)
        # By the envelope theorem the probabilities need no gradient.
        probabilities = sparsemax(logits.detach())
        linear = ((probabilities - self._target(vector)) * logits).sum(-1)
        loss = linear + 0.5 * (1.0 - probabilities.square().sum(-1))
        return loss, self._spread(probabilities)

    def cross_entropy(self, outputs: Tensor, vector: Tensor) -> Tensor:
        """Cross-entropy (..., G) of the softmax of outputs (..., D), for a decoder that shows the most likely ones."""
        likelihood = self._logits(outputs).log_softmax(-1)
        return -(likelihood * self._target(vector)).sum(-1)

    def most_likely(self, outputs: Tensor) -> Tensor:
        """One-hots of the most likely categories, in the columns of the groups; other columns as in `outputs`."""
        number = self._logits(outputs).argmax(-1)
        likely = functional.one_hot(number, self._columns.shape[-1]).to(outputs.dtype)
        return torch.where(self.group >= 0, self._spread(likely), outputs)

    def draw(
        self, outputs: Tensor, stage: list[int], fraction: Tensor, temperature: float
    ) -> Tensor:
        """Draw the groups of a stage: one-hots in their columns of a vector (B, D), 0 elsewhere.

        fraction: (B, G) uniform in (0, 1), the random numbers of all groups. temperature: 0: the most likely category.
        Gradients are those of the probabilities (straight-through).
        """
        probabilities = sparsemax(self._logits(outputs, stage))
        scaled = probabilities.detach()
        if temperature == 0.0:
            number = scaled.argmax(-1)
        else:
            # Relative to the most likely category: high powers of small probabilities would all underflow to 0.
            scaled = scaled / scaled.amax(-1, keepdim=True)
            cumulative = (scaled ** (1.0 / temperature)).cumsum(-1)
            threshold = fraction[:, stage, None] * cumulative[..., -1:]
            number = (cumulative < threshold).sum(-1).clamp(max=cumulative.shape[-1] - 1)
        drawn = torch.zeros_like(scaled).scatter_(-1, number[..., None], 1.0)
        if probabilities.requires_grad:
            drawn = drawn + (probabilities - probabilities.detach())
        return self._spread(drawn, stage)

    def prefix_of(self, vector: Tensor, stage: Tensor | None = None) -> Tensor:
        """Prefix (..., P) of a vector (..., D): of all its ordered groups, or of those before a stage (...)."""
        prefix = vector.index_select(-1, self.prefix)
        if stage is None or not len(self._prefix_stage):
            return prefix
        return prefix * (self._prefix_stage < stage[..., None])

    def open(self, stage: Tensor) -> Tensor:
        """(..., G) bool, True for groups that are not part of the prefix before a stage (...)."""
        return self._stage >= stage[..., None]


def sparsemax(logits: Tensor) -> Tensor:
    """Probabilities (..., C): the point of the simplex that is nearest to the logits (..., C).

    Equal logits have equal probabilities; a category whose logit is 1 below the largest has the probability 0.
    """
    # A graph that is exported or compiled cannot repeat until nothing changes.
    if torch.compiler.is_compiling():
        ordered = logits.sort(dim=-1, descending=True).values
        number = torch.arange(1, logits.shape[-1] + 1, dtype=logits.dtype, device=logits.device)
        thresholds = (ordered.cumsum(-1) - 1.0) / number
        # The largest one: each category below it would make it smaller.
        return (logits - thresholds.amax(-1, keepdim=True)).clamp(min=0.0)
    with torch.no_grad():
        # Newton's method for the threshold, from below: the categories above it only become fewer, and then are right.
        threshold = logits.amax(-1, keepdim=True) - 1.0
        count = torch.full_like(threshold, -1.0)
        for _ in range(_MAX_ITERATIONS):
            above = logits > threshold
            fewer = above.sum(-1, keepdim=True)
            if bool((fewer == count).all()):
                break
            count = fewer
            threshold = (logits.where(above, 0.0).sum(-1, keepdim=True) - 1.0) / count
    # Once more, for the gradient.
    threshold = (logits.where(above, 0.0).sum(-1, keepdim=True) - 1.0) / count
    return (logits - threshold).clamp(min=0.0)
