"""Differentiable rollout of a policy in a world model: for policy gradients through the model and for planning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from world_env.batch import Observation, State
from world_env.models.base import Prediction, WorldModel
from world_env.rng import CounterRNG

Policy = Callable[[Tensor], Tensor]
"""Features (B, F) -> encoded actions (B, A)."""


@dataclass(frozen=True)
class Rollout:
    """Learned rollouts of T steps in B environments. All tensors keep their gradients."""

    states: list[State]
    """T+1 model states; the first is the initial state."""
    observations: list[Observation]
    """T+1 decoded observations, key -> (B, *O), encoded as in `world_env.codec`."""
    actions: Tensor
    """(B, T, A) encoded actions."""
    rewards: Tensor
    """(B, T) expected reward of each step, in task units, over both outcomes of its termination."""
    terminated: Tensor
    """(B, T) probability that a step terminates the episode, given that the step is reached."""
    alive: Tensor
    """(B, T) probability that a step is reached; alive[:, 0] is 1."""

    def returns(self, discount: float = 1.0) -> Tensor:
        """Return the expected discounted returns, (B,): rewards weighted by the probability that they are reached."""
        powers = discount ** torch.arange(
            self.rewards.shape[1], device=self.rewards.device, dtype=self.rewards.dtype
        )
        return (self.rewards * self.alive * powers).sum(1)


def expected_reward(prediction: Prediction, ends: Tensor) -> Tensor:
    """Expected reward (B,) of a step over both outcomes of its termination.

    ends: (B,), probability of the termination.
    """
    if prediction.terminal_reward is None:
        return prediction.reward
    return torch.lerp(prediction.reward, prediction.terminal_reward, ends.to(prediction.reward))


def rollout(
    model: WorldModel,
    state: State,
    policy: Policy,
    steps: int,
    rng: CounterRNG,
    *,
    temperature: float = 1.0,
) -> Rollout:
    """Roll out `policy` in `model` for `steps` steps from `state`. The arguments are not modified.

    state: of B environments, from `WorldModel.encode`. policy: features (B, F) -> encoded actions (B, A).
    rng: copied, so that the same call returns the same rollout. temperature: scale of the model's noise.

    Rollouts are not truncated: terminations are probabilities. Raises ValueError unless `steps` is at least 1.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}, expected an integer >= 1")
    rng = rng.clone()
    states, observations = [state], [model.decode(state)]
    actions, rewards, terminated = [], [], []
    for _ in range(steps):
        action = policy(model.features(states[-1]))
        arrived, prediction = model.step(states[-1], action, rng=rng, temperature=temperature)
        ends = prediction.terminated
        states.append(arrived)
        observations.append(model.decode(arrived))
        actions.append(action)
        rewards.append(expected_reward(prediction, ends))
        terminated.append(ends)
    ends = torch.stack(terminated, 1)
    reached = torch.cumprod(1.0 - ends, 1)
    alive = torch.cat([torch.ones_like(ends[:, :1]), reached[:, :-1]], 1)
    return Rollout(
        states, observations, torch.stack(actions, 1), torch.stack(rewards, 1), ends, alive
    )
