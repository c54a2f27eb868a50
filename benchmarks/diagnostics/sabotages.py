"""Sabotaged twins for the benchmark of the exploitation alarm.

A sabotage wraps the model of a twin. Initial states, thresholds and data range stay, except for the range of rewards:
the simulator clips rewards to it and would undo a sabotage of rewards.
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

Next = tuple[State, Prediction]
Step = Callable[[State, Tensor, CounterRNG], Next]
"""(state, action, rng) -> next state and prediction of the sound model, with uncertainty."""
Change = Callable[[WorldModel, Step, State, Tensor, CounterRNG], Next]
"""(sound model, its step, state, action, rng) -> next state and prediction of the sabotaged model."""

JUDGED = ("reward off the data", "no deaths", "frozen")
"""Sabotages of the evaluation."""
TUNING = ("scaled reward", "noisy reward", "pushed", "deaf", "late ends")
"""Sabotages that the limits of the alarm were chosen on."""


class SabotagedModel(WorldModel):
    """World model with a changed step of a sound model."""

    def __init__(self, sound: WorldModel, change: Change) -> None:
        super().__init__(sound.spec, sound.config)
        self.sound, self.change = sound, change

    def for_inference(self) -> SabotagedModel:
        """The same sabotage of the sound model for inference."""
        return SabotagedModel(self.sound.for_inference(), self.change).eval()

    def encode(self, context: Context, *, rng: CounterRNG) -> State:
        """As in the sound model."""
        return self.sound.encode(context, rng=rng)

    def observe(
        self, state: State, action: Tensor, observation: Observation, *, rng: CounterRNG
    ) -> State:
        """As in the sound model."""
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
        """Changed step of the sound model."""

        def step(state: State, action: Tensor, rng: CounterRNG) -> tuple[State, Prediction]:
            return self.sound.step(
                state, action, rng=rng, temperature=temperature, uncertainty=uncertainty or True
            )

        following, prediction = self.change(self.sound, step, state, action, rng)
        if not uncertainty:
            prediction = dataclasses.replace(prediction, uncertainty=None)
        return following, prediction

    def decode(self, state: State) -> Observation:
        """As in the sound model."""
        return self.sound.decode(state)

    def features(self, state: State) -> Tensor:
        """As in the sound model."""
        return self.sound.features(state)


def sabotaged(twin: Twin, name: str) -> Twin:
    """The twin with one sabotage of JUDGED or TUNING; "none": the twin itself."""
    if name == "none":
        return twin
    if name == "late ends":
        # The effect of a threshold chosen on wrong data: only near certain terminations end an episode.
        return dataclasses.replace(twin, termination_threshold=0.9999)
    change = _OffData(twin) if name == "reward off the data" else _CHANGES[name]
    ranges = _widened(twin.ranges) if "reward" in name else twin.ranges
    return dataclasses.replace(twin, model=SabotagedModel(twin.model, change).eval(), ranges=ranges)


def _no_deaths(
    sound: WorldModel, step: Step, state: State, action: Tensor, rng: CounterRNG
) -> Next:
    """No episode terminates."""
    following, prediction = step(state, action, rng)
    return following, dataclasses.replace(
        prediction, terminated=torch.zeros_like(prediction.terminated)
    )


def _frozen(sound: WorldModel, step: Step, state: State, action: Tensor, rng: CounterRNG) -> Next:
    """The state never changes; reward and termination are those of the sound model."""
    _, prediction = step(state, action, rng)
    return state, prediction


class _OffData:
    """A bonus of 1 for states outside the data range or with an uncertainty above the threshold."""

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
        following, prediction = step(state, action, rng)
        assert prediction.uncertainty is not None
        off = prediction.uncertainty > self.threshold
        for key, values in sound.decode(following).items():
            if key in self.bounds:
                low, high = self.bounds[key]
                flat = values.flatten(1)
                off = off | ((flat < low) | (flat > high)).any(-1)
        bonus = off.to(prediction.reward.dtype)
        final = prediction.terminal_reward
        return following, dataclasses.replace(
            prediction,
            reward=prediction.reward + bonus,
            terminal_reward=None if final is None else final + bonus,
        )


def _scaled_reward(
    sound: WorldModel, step: Step, state: State, action: Tensor, rng: CounterRNG
) -> Next:
    """Every reward times 1.5."""
    following, prediction = step(state, action, rng)
    final = prediction.terminal_reward
    return following, dataclasses.replace(
        prediction,
        reward=1.5 * prediction.reward,
        terminal_reward=None if final is None else 1.5 * final,
    )


def _noisy_reward(
    sound: WorldModel, step: Step, state: State, action: Tensor, rng: CounterRNG
) -> Next:
    """Rewards with noise of standard deviation 1, which a policy cannot exploit."""
    following, prediction = step(state, action, rng)
    noise = rng.normal(1).squeeze(-1).to(prediction.reward.dtype)
    return following, dataclasses.replace(prediction, reward=prediction.reward + noise)


def _pushed(sound: WorldModel, step: Step, state: State, action: Tensor, rng: CounterRNG) -> Next:
    """The last dimension drifts by half of its typical change in a step."""
    following, prediction = step(state, action, rng)
    vector, normalizer = following["observation"].clone(), cast(Any, sound.normalizer)
    vector[:, -1] += 0.5 * normalizer.change_scale[-1]
    return following | {"observation": vector}, prediction


def _deaf(sound: WorldModel, step: Step, state: State, action: Tensor, rng: CounterRNG) -> Next:
    """Half of the actions are replaced by zero, or by the first discrete action."""
    executed = rng.uniform(1) < 0.5
    other = torch.zeros_like(action)
    if (action.sum(-1) == 1).all() and action.shape[-1] > 1:
        other[:, 0] = 1.0
    return step(state, torch.where(executed, action, other), rng)


def _widened(ranges: DataRange | None) -> DataRange | None:
    """Data range with room for changed rewards."""
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
