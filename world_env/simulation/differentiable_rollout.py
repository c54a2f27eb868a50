"""A pure, differentiable rollout: for gradients through the world, and for planning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from world_env.batch import Observation, State
from world_env.models.base import WorldModel
from world_env.rng import CounterRNG

Policy = Callable[[Tensor], Tensor]
"""Features (B, F) -> encoded action (B, A)."""


@dataclass(frozen=True)
class Rollout:
    """What T imagined steps of B rows show; every tensor keeps its gradient.

    states: T+1 states, the given one first. observations: T+1 decoded observations, key -> (B, *O).
    actions: (B, T, A). rewards: (B, T), task units, expected over whether the step terminates.
    terminated: (B, T) probability of terminating at each step, given that it is reached.
    alive: (B, T) probability that the step is reached: alive[:, 0] is 1.
    """

    states: list[State]
    observations: list[Observation]
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    alive: Tensor

    def returns(self, discount: float = 1.0) -> Tensor:
        """(B,) expected discounted return: each reward weighted by the chance that it is reached."""
        powers = discount ** torch.arange(
            self.rewards.shape[1], device=self.rewards.device, dtype=self.rewards.dtype
        )
        return (self.rewards * self.alive * powers).sum(1)


def rollout(
    model: WorldModel,
    state: State,
    policy: Policy,
    steps: int,
    rng: CounterRNG,
    *,
    temperature: float = 1.0,
) -> Rollout:
    """Step `model` from `state` for `steps` steps; nothing given is changed.

    `rng` is copied: the same call gives the same future. No row is ever cut: ends are probabilities.
    Raises ValueError for fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}, expected at least 1")
    rng = rng.clone()
    states, observations = [state], [model.decode(state)]
    actions, rewards, terminated = [], [], []
    for _ in range(steps):
        action = policy(model.features(states[-1]))
        arrived, prediction = model.step(states[-1], action, rng=rng, temperature=temperature)
        ends = prediction.terminated
        reward = prediction.reward
        if prediction.terminal_reward is not None:
            reward = torch.lerp(reward, prediction.terminal_reward, ends)
        states.append(arrived)
        observations.append(model.decode(arrived))
        actions.append(action)
        rewards.append(reward)
        terminated.append(ends)
    ends = torch.stack(terminated, 1)
    reached = torch.cumprod(1.0 - ends, 1)
    alive = torch.cat([torch.ones_like(ends[:, :1]), reached[:, :-1]], 1)
    return Rollout(
        states, observations, torch.stack(actions, 1), torch.stack(rewards, 1), ends, alive
    )
