"""Episodes as flat training tensors: windows, robust statistics, initial states.

The codec is applied here, once. Letters and time alignment as in `world_env.batch`.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from world_env.batch import Batch, Context, Observation, Statistics, select, unpacked
from world_env.codec import Codec, packed
from world_env.data.column_structure import one_hot_groups, returns_to_rest, unit_vectors
from world_env.data.episode import Episode, Piece, stacked_conditioning
from world_env.data.statistics import MIN_SPREAD, is_vector, robust_scale
from world_env.data_range import widened
from world_env.errors import (
    DataError,
    InitialStatesError,
    InvalidActionError,
    InvalidObservationError,
)
from world_env.seeding import SeedPurpose, derived_seed
from world_env.spaces import category_sizes, is_image

_STILL = 1e-3
"""Change scale of a column that never changes, in units of its own scale: it should stay put."""
_CHUNK = 100_000
"""Steps per part of a computation over all steps, which bounds its memory."""
_COLUMNS = ("actions", "rewards", "terminated", "episode", "left", "elapsed")
"""Fields of `EncodedEpisodes` with one entry per step."""


@dataclass(frozen=True)
class EncodedEpisodes:
    """Encoded episodes, concatenated: N steps, and N plus the number of episodes = M observations.

    codec: codec of the observations and actions.
    observations: key -> (M, *O) float32; images as uint8.
    actions: (N, A) float32.
    rewards: (N,) float32, task units.
    terminated: (N,) float32, 1 where the task terminated.
    episode: (N,) int64, episode number of each step; the observation before step i is at i + episode[i].
    left: (N,) int64 >= 1, steps from this one to the last of its episode, both included.
    elapsed: (N,) int64, steps since the reset of the environment.
    conditioning: name -> (episodes, ...) float32, values of whole episodes.
    begins: (K,) int64, steps at which `windows` may begin; None: all.
    """

    codec: Codec
    observations: Observation
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    episode: Tensor
    left: Tensor
    elapsed: Tensor
    conditioning: dict[str, Tensor] = field(default_factory=dict)
    begins: Tensor | None = None

    def __len__(self) -> int:
        """Number of steps, N."""
        return self.actions.shape[0]

    @property
    def device(self) -> torch.device:
        """Device of the tensors, windows and contexts. Statistics are computed on the CPU."""
        return self.actions.device

    @cached_property
    def longest(self) -> int:
        """Largest number of steps of a window without padding."""
        return int((self.left if self.begins is None else self.left[self.begins]).max())

    def to(self, device: torch.device) -> EncodedEpisodes:
        """Copy to another device."""
        moved = {key: value.to(device) for key, value in self.observations.items()}
        parts: dict[str, Any] = {name: getattr(self, name).to(device) for name in _COLUMNS}
        parts["conditioning"] = {n: value.to(device) for n, value in self.conditioning.items()}
        begins = None if self.begins is None else self.begins.to(device)
        return replace(self, observations=moved, begins=begins, **parts)

    def part(self, pieces: Sequence[Piece]) -> EncodedEpisodes:
        """Copy pieces of the episodes, each as an episode of its own."""
        steps, number, left = self._steps_of(pieces)
        last = left == 1
        places = torch.cat([steps + self.episode[steps], (steps + self.episode[steps] + 1)[last]])
        order = (torch.cat([number, number[last]])).argsort(stable=True)
        columns = {
            name: getattr(self, name)[steps]
            for name in ("actions", "rewards", "terminated", "elapsed")
        }
        return EncodedEpisodes(
            codec=self.codec,
            observations={key: value[places[order]] for key, value in self.observations.items()},
            episode=number,
            left=left,
            conditioning=select(self.conditioning, torch.tensor([piece[0] for piece in pieces])),
            **columns,
        )

    def windows_of(self, pieces: Sequence[Piece]) -> EncodedEpisodes:
        """The same tensors, not copied, with `windows` that lie within the pieces."""
        steps, _, left = self._steps_of(pieces)
        return replace(self, left=self.left.index_copy(0, steps, left), begins=steps)

    def windows(
        self, size: int, length: int, generator: torch.Generator, *, context: int = 1
    ) -> Batch:
        """Sample `size` windows of `length` steps; their first steps are uniform over `begins`.

        context: number of observations in `Batch.context`; 1: none.
        """
        number = len(self) if self.begins is None else len(self.begins)
        steps = torch.randint(number, (size,), generator=generator).to(self.device)
        steps = steps if self.begins is None else self.begins[steps]
        batch = self.gather(steps, length)
        return batch if context == 1 else replace(batch, context=self.contexts(steps, context))

    def gather(self, steps: Tensor, length: int) -> Batch:
        """Cut the windows of `length` steps that start at the given steps, (B,) int64.

        After the end of an episode, the last observation repeats, all else is 0 and `valid` is False.
        """
        if length < 1:
            raise ValueError(f"length must be at least 1 step, got {length}")
        offset = torch.arange(length + 1, device=self.device)
        left = self.left[steps][:, None]
        places = (steps + self.episode[steps])[:, None] + torch.minimum(offset, left)
        valid = offset[:-1] < left
        taken = steps[:, None] + torch.minimum(offset[:-1], left - 1)
        return Batch(
            {key: unpacked(_rows(value, places)) for key, value in self.observations.items()},
            _rows(self.actions, taken) * valid[..., None],
            _rows(self.rewards, taken) * valid,
            _rows(self.terminated, taken) * valid,
            valid,
            self._conditioning(steps),
        )

    def seen(self, places: Tensor) -> Observation:
        """Observations at the given indices into all M, as float32."""
        return {key: unpacked(value[places]) for key, value in self.observations.items()}

    def contexts(self, steps: Tensor, length: int) -> Context:
        """Context of each given step, (B,) int64: its observation and up to `length` - 1 observations before it."""
        first = torch.searchsorted(self.episode, self.episode[steps])
        known = (steps - first + 1).clamp(max=length)
        offset = torch.arange(length, device=self.device)
        place = (steps - known + 1)[:, None] + torch.minimum(offset, known[:, None] - 1)
        acted = (offset[:-1] < known[:, None] - 1)[..., None]
        return Context(
            {
                key: _rows(value, place + self.episode[steps][:, None])
                for key, value in self.observations.items()
            },
            _rows(self.actions, place[:, :-1]) * acted,
            known,
            self.elapsed[steps],
            self._conditioning(steps),
        )

    def _conditioning(self, steps: Tensor) -> dict[str, Tensor]:
        return select(self.conditioning, self.episode[steps]) if self.conditioning else {}

    def changes(self, key: str) -> Tensor:
        """Change of every dimension in every step, (N, D)."""
        flat = self.observations[key].flatten(1)
        found = flat.new_empty(len(self), flat.shape[1])
        for steps in torch.arange(len(self)).split(_CHUNK):
            places = steps + self.episode[steps]
            found[steps] = flat[places + 1] - flat[places]
        return found

    def rewards_by_end(self) -> tuple[Tensor, Tensor]:
        """Rewards of the steps that did not terminate, and of those that did.

        If one of the two is empty, both hold all rewards.
        """
        ended = self.terminated > 0
        usual = self.rewards if ended.all() else self.rewards[~ended]
        return usual, self.rewards[ended] if ended.any() else usual

    def statistics(self) -> Statistics:
        """Compute the scales of the models' normalizers, robust to rare outliers and constant columns.

        Only float and integer Box keys are scaled; images and one-hots keep [0, 1].
        """
        categories = self._categories()
        columns = {key: self._key_statistics(key, categories[key]) for key in self.observations}
        (center_usual, scale_usual), (center_final, scale_final) = (
            robust_scale(part[:, None].numpy()) for part in self.rewards_by_end()
        )
        center, scale, change, low, high, carried = (
            {key: values[i] for key, values in columns.items()} for i in range(6)
        )
        return Statistics(
            center=center,
            scale=scale,
            change_scale=change,
            low=low,
            high=high,
            carried=carried,
            unit_vectors=self._unit_vectors(),
            reward_center=float(center_usual[0]),
            reward_scale=float(scale_usual[0]),
            terminal_reward_center=float(center_final[0]),
            terminal_reward_scale=float(scale_final[0]),
            reward_low=float(self.rewards.min()),
            reward_high=float(self.rewards.max()),
            terminal_fraction=float(self.terminated.mean()),
            categories=categories,
        )

    def fingerprint(self) -> str:
        """SHA-256 of the data set. A checkpoint is resumed only with the same data set."""
        digest = hashlib.sha256()
        for part in (
            *self.observations.values(),
            self.actions,
            self.rewards,
            self.terminated,
            self.episode,
            *self.conditioning.values(),
        ):
            # `tobytes` would copy the data set.
            digest.update(part.contiguous().numpy(force=True))  # type: ignore[arg-type]
        return digest.hexdigest()

    def _steps_of(self, pieces: Sequence[Piece]) -> tuple[Tensor, Tensor, Tensor]:
        """(steps, number of their piece, steps left in the piece), (K,) int64 each."""
        change = torch.diff(self.episode, prepend=self.episode.new_tensor([-1]))
        first = change.nonzero().squeeze(1)
        episode, start, stop = torch.tensor(pieces, device=self.device).T
        lengths = stop - start
        number = torch.repeat_interleave(torch.arange(len(pieces), device=self.device), lengths)
        ends = lengths.cumsum(0)
        left = ends[number] - torch.arange(len(number), device=self.device)
        return (first[episode] + stop)[number] - left, number, left

    def _unit_vectors(self) -> Observation:
        found, number = {}, 0
        for key, values in self.observations.items():
            flat = values.flatten(1)
            of_key = found[key] = torch.full((flat.shape[1],), -1)
            space = self.codec.keys[key]
            angles = self.codec.angle_pairs(key)
            for pair in angles:
                of_key[list(pair)] = number
                number += 1
            if not is_vector(space) or not np.issubdtype(space.dtype, np.floating):
                continue
            # Without the angles, whose cosine fits the sine of the same angle in another column as well.
            rest = np.flatnonzero(of_key.numpy() < 0)
            for group in unit_vectors(flat.numpy()[:, rest] if angles else flat.numpy()):
                of_key[rest[list(group)]] = number
                number += 1
        return found

    def _categories(self) -> Observation:
        """`Statistics.categories`: known from the space, or found in the columns of a Box."""
        found, number = {}, 0
        for key, values in self.observations.items():
            flat, space = values.flatten(1), self.codec.keys[key]
            of_key = found[key] = torch.full((flat.shape[1],), -1)
            if isinstance(space, spaces.Box):
                if is_image(space):
                    continue
                low, high = (np.asarray(bound).reshape(-1) for bound in (space.low, space.high))
                groups = one_hot_groups(flat.numpy(), (low == 0) & (high == 1))
            else:
                edges = np.cumsum([0, *category_sizes(space)]).tolist()
                groups = [slice(*pair) for pair in itertools.pairwise(edges)]
            for group in groups:
                of_key[group] = number
                number += 1
        return found

    def _key_statistics(self, key: str, categories: Tensor) -> tuple[Tensor, ...]:
        flat = self.observations[key].flatten(1)
        if not is_vector(self.codec.keys[key]):
            one, zero = torch.ones(flat.shape[1]), torch.zeros(flat.shape[1])
            return zero, one, one, zero, one, one
        center, scale = robust_scale(flat.numpy())
        changes = self.changes(key).numpy()
        typical, change = robust_scale(changes)
        moving = np.ptp(changes, axis=0) > MIN_SPREAD * scale
        change = np.where(moving, change, _STILL * scale)
        # Changes are not centred: centred changes of a clock column would be rounding errors only.
        change = np.maximum(change, np.abs(typical))
        low, high = widened(flat.amin(0), flat.amax(0))
        carried = ~returns_to_rest(flat.numpy(), changes, center, MIN_SPREAD * scale)
        change = np.where(carried, change, scale)
        scales = (
            torch.as_tensor(array, dtype=torch.float32)
            for array in (center, scale, change, carried)
        )
        *usual, kept = scales
        one_hot = categories >= 0
        plain = (0.0, 1.0, 1.0, 0.0, 1.0, 1.0)
        return tuple(
            value.masked_fill(one_hot, fixed)
            for value, fixed in zip((*usual, low, high, kept), plain, strict=True)
        )


def encode_episodes(episodes: Sequence[Episode], codec: Codec) -> EncodedEpisodes:
    """Encode episodes with a codec.

    Raises DataError without episodes, or for an episode that does not fit the spaces of the codec.
    """
    if not episodes:
        raise DataError("no episodes to encode: expected at least 1, collect some first")
    lengths = torch.tensor([len(episode) for episode in episodes])
    ends = lengths.cumsum(0)
    total = int(ends[-1])
    actions = torch.empty(total, codec.action_size)
    observations = {
        key: torch.empty(
            total + len(episodes),
            *shape,
            dtype=torch.uint8 if key in codec.images else torch.float32,
        )
        for key, shape in codec.shapes.items()
    }
    # Into place: a list of encoded episodes and its concatenation would be two copies of the data.
    for i, (episode, end) in enumerate(zip(episodes, ends.tolist(), strict=True)):
        try:
            encoded = packed(codec.encode_observation(episode.observations), codec.images)
            actions[end - len(episode) : end] = codec.encode_action(episode.actions)
        except (InvalidObservationError, InvalidActionError) as error:
            raise DataError(f"episode {i} does not fit the spaces: {error}") from error
        for key, value in encoded.items():
            observations[key][end - len(episode) + i : end + i + 1] = value
    number = torch.repeat_interleave(torch.arange(len(episodes)), lengths)
    step = torch.arange(total)
    terminated = torch.zeros(len(step))
    terminated[ends - 1] = torch.tensor([float(episode.terminated) for episode in episodes])
    origin = torch.tensor([episode.elapsed for episode in episodes]) - (ends - lengths)
    return EncodedEpisodes(
        codec=codec,
        observations=observations,
        actions=actions,
        rewards=torch.as_tensor(np.concatenate([episode.rewards for episode in episodes])),
        terminated=terminated,
        episode=number,
        left=ends[number] - step,
        elapsed=origin[number] + step,
        conditioning={
            name: torch.from_numpy(value) for name, value in stacked_conditioning(episodes).items()
        },
    )


def starts(encoded: EncodedEpisodes) -> Context:
    """Initial states of the episodes that start at a reset (`elapsed` 0), as contexts of length 1.

    Raises InitialStatesError if there is none.
    """
    steps = (encoded.elapsed == 0).nonzero().squeeze(1)
    if not len(steps):
        raise InitialStatesError(
            f"none of the {int(encoded.episode[-1]) + 1} episodes starts at a reset of the environment (elapsed 0): "
            "add whole episodes to the data"
        )
    observation = select(encoded.observations, steps + encoded.episode[steps])
    conditioning = select(encoded.conditioning, encoded.episode[steps])
    return Context.from_observation(observation, encoded.codec.action_size, conditioning)


def dataset_states(
    encoded: EncodedEpisodes, limit: int, seed: int = 0, *, context: int = 1
) -> Context:
    """Sample up to `limit` steps without replacement, each as a context of up to `context` observations.

    If there are at most `limit` different observations, such as the states of a grid world, each one is taken once:
    learned episodes then start from rare states as often as from usual ones.
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, SeedPurpose.DATASET_STATES))
    steps = torch.randperm(len(encoded), generator=generator)
    if context == 1 and all(category_sizes(space) for space in encoded.codec.keys.values()):
        different = _different(encoded, steps)
        steps = steps[different] if len(different) <= limit else steps
    return encoded.contexts(steps[:limit].sort().values, context)


def _different(encoded: EncodedEpisodes, steps: Tensor) -> Tensor:
    """Positions in `steps` of the first occurrence of each different observation, all of them categories."""
    # Each observation has as many ones as categories, so their columns are the categories.
    columns = [
        values.nonzero()[:, 1].unflatten(0, (len(values), -1))
        for values in encoded.observations.values()
    ]
    categories = torch.cat(columns, 1)[steps + encoded.episode[steps]]
    _, first = np.unique(categories.numpy(), axis=0, return_index=True)
    return torch.from_numpy(first)


def _rows(values: Tensor, places: Tensor) -> Tensor:
    """`values[places]`, in half the time: `index_select` with a flat index is faster than a 2-D index."""
    return values.index_select(0, places.flatten()).unflatten(0, places.shape)
