"""Twins that are wrong on purpose: what an alarm has to notice.

A sabotage wraps a twin's model; everything else (starts, states, thresholds, what the data showed) stays, but for the
range of rewards: a simulator clips rewards to what the data showed, and would undo a sabotage of them by itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from world_env.batch import Context, Observation, State
from world_env.data_range import DataRange
from world_env.models import Prediction, WorldModel
from world_env.rng import CounterRNG
from world_env.twin import Twin
from world_env.types import Uncertainty

Step = Callable[[State, Tensor, CounterRNG], tuple[State, Prediction]]
"""(state, action, random) -> what the sound model says, uncertainty included."""
Change = Callable[[WorldModel, Step, State, Tensor, CounterRNG], tuple[State, Prediction]]
"""(sound model, its step, state, action, random) -> what the sabotaged one says."""

JUDGED = ("reward off the data", "no deaths", "frozen")
"""What the alarm is judged on."""
TUNING = ("scaled reward", "noisy reward", "pushed", "deaf", "late ends")
"""What its limits were chosen on."""


class SabotagedModel(WorldModel):
    """A model whose step is another one's, changed."""

    def __init__(self, sound: WorldModel, change: Change) -> None:
        super().__init__(sound.spec, sound.config)
        self.sound, self.change = sound, change

    def for_inference(self) -> SabotagedModel:
        """The same sabotage of the sound model's stepper."""
        return SabotagedModel(self.sound.for_inference(), self.change).eval()

    def encode(self, context: Context, *, rng: CounterRNG) -> State:
        """The sound model's."""
        return self.sound.encode(context, rng=rng)

    def observe(
        self, state: State, action: Tensor, observation: Observation, *, rng: CounterRNG
    ) -> State:
        """The sound model's."""
        return self.sound.observe(state, action, observation, rng=rng)

    def step(
        self,
        state: State,
        action: Tensor,
        *,
        rng: CounterRNG,
        temperature: float = 1.0,
        uncertainty: Uncertainty = False,
    ) -> tuple[State, Prediction]:
        """The sound model's, changed."""

        def step(state: State, action: Tensor, rng: CounterRNG) -> tuple[State, Prediction]:
            return self.sound.step(
                state,
                action,
                rng=rng,
                temperature=temperature,
                uncertainty=uncertainty or True,
            )

        arrived, prediction = self.change(self.sound, step, state, action, rng)
        if not uncertainty:
            prediction = dataclasses.replace(prediction, uncertainty=None)
        return arrived, prediction

    def decode(self, state: State) -> Observation:
        """The sound model's."""
        return self.sound.decode(state)

    def features(self, state: State) -> Tensor:
        """The sound model's."""
        return self.sound.features(state)


def sabotaged(twin: Twin, name: str) -> Twin:
    """The twin with one of JUDGED or TUNING done to it; "none": itself."""
    if name == "none":
        return twin
    if name == "late ends":
        # What a threshold chosen on the wrong data does: only what is beyond doubt ends an episode.
        return dataclasses.replace(twin, termination_threshold=0.9999)
    change = _OffData(twin) if name == "reward off the data" else _CHANGES[name]
    ranges = _widened(twin.ranges) if "reward" in name else twin.ranges
    return dataclasses.replace(twin, model=SabotagedModel(twin.model, change).eval(), ranges=ranges)


def _no_deaths(
    sound: WorldModel, step: Step, state: State, action: Tensor, rng: CounterRNG
) -> tuple[State, Prediction]:
    """Nothing ever terminates."""
    arrived, said = step(state, action, rng)
    return arrived, dataclasses.replace(said, terminated=torch.zeros_like(said.terminated))


def _frozen(
    sound: WorldModel, step: Step, state: State, action: Tensor, rng: CounterRNG
) -> tuple[State, Prediction]:
    """The state never changes, but the step is paid, and ends where the sound model would end it."""
    _, said = step(state, action, rng)
    return state, said


class _OffData:
    """One more reward wherever the state lies outside the data's range, or uncertainty beyond the data's."""

    def __init__(self, twin: Twin) -> None:
        assert twin.ranges is not None and twin.uncertainty_threshold is not None
        self.threshold = twin.uncertainty_threshold
        self.bounds = {
            key: [torch.tensor(bound) for bound in pair]
            for key, pair in twin.ranges.observation.items()
        }

    def __call__(
        self, sound: WorldModel, step: Step, state: State, action: Tensor, rng: CounterRNG
    ) -> tuple[State, Prediction]:
        arrived, said = step(state, action, rng)
        assert said.uncertainty is not None
        off = said.uncertainty > self.threshold
        for key, values in sound.decode(arrived).items():
            if key in self.bounds:
                low, high = self.bounds[key]
                flat = values.flatten(1)
                off = off | ((flat < low) | (flat > high)).any(-1)
        bonus = off.to(said.reward.dtype)
        final = said.terminal_reward
        return arrived, dataclasses.replace(
            said,
            reward=said.reward + bonus,
            terminal_reward=None if final is None else final + bonus,
        )


def _scaled_reward(
    sound: WorldModel, step: Step, state: State, action: Tensor, rng: CounterRNG
) -> tuple[State, Prediction]:
    """Every reward half as large again."""
    arrived, said = step(state, action, rng)
    final = said.terminal_reward
    return arrived, dataclasses.replace(
        said,
        reward=1.5 * said.reward,
        terminal_reward=None if final is None else 1.5 * final,
    )


def _noisy_reward(
    sound: WorldModel, step: Step, state: State, action: Tensor, rng: CounterRNG
) -> tuple[State, Prediction]:
    """Rewards with a deviation of 1: nothing that a policy could exploit."""
    arrived, said = step(state, action, rng)
    noise = rng.normal(1).squeeze(-1).to(said.reward.dtype)
    return arrived, dataclasses.replace(said, reward=said.reward + noise)


def _pushed(
    sound: WorldModel, step: Step, state: State, action: Tensor, rng: CounterRNG
) -> tuple[State, Prediction]:
    """The last dimension drifts by half of a step's typical change, as under another gravity."""
    arrived, said = step(state, action, rng)
    vector, normalizer = arrived["observation"].clone(), cast(Any, sound.normalizer)
    vector[:, -1] += 0.5 * normalizer.change_scale[-1]
    return arrived | {"observation": vector}, said


def _deaf(
    sound: WorldModel, step: Step, state: State, action: Tensor, rng: CounterRNG
) -> tuple[State, Prediction]:
    """Half of the actions are not played: the middle one is, or the first of a choice."""
    heard = rng.uniform(1) < 0.5
    other = torch.zeros_like(action)
    if (action.sum(-1) == 1).all() and action.shape[-1] > 1:
        other[:, 0] = 1.0
    return step(state, torch.where(heard, action, other), rng)


def _widened(ranges: DataRange | None) -> DataRange | None:
    """Room for what a sabotage pays."""
    if ranges is None:
        return None
    low, high = ranges.reward
    room = 1.0 + max(abs(low), abs(high))
    return dataclasses.replace(ranges, reward=(low - room, high + room))


_CHANGES: dict[str, Change] = {
    "no deaths": _no_deaths,
    "frozen": _frozen,
    "scaled reward": _scaled_reward,
    "noisy reward": _noisy_reward,
    "pushed": _pushed,
    "deaf": _deaf,
}
