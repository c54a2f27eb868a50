"""Exact world models: the real equations in the protocol's clothes, so that every shell can be judged exactly.

Equations as in gymnasium's classic control environments (cartpole.py, pendulum.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from world_env.batch import Context, Observation, State
from world_env.codec import Codec
from world_env.data.episode import Episode
from world_env.models.base import Prediction, WorldModel
from world_env.models.registry import register_world_model
from world_env.rng import CounterRNG
from world_env.spec import WorldSpec
from world_env.twin.twin import Twin


@dataclass(frozen=True)
class OracleConfig:
    """noise: standard deviation added to the state in each step; 0 is exact."""

    noise: float = 0.0


class _Oracle(WorldModel):
    """Keeps its state as float64; the observation is a function of it."""

    config_class = OracleConfig

    def __init__(self, spec: WorldSpec, config: OracleConfig) -> None:
        super().__init__(spec, config)
        self.config: OracleConfig = config

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64

    def encode(self, context: Context, *, rng: CounterRNG) -> State:
        return {"physics": self.physics(context.last()["observation"].double())}

    def observe(
        self, state: State, action: Tensor, observation: Observation, *, rng: CounterRNG
    ) -> State:
        return {"physics": self.physics(observation["observation"].double())}

    def features(self, state: State) -> Tensor:
        return state["physics"]

    def _noise(self, state: Tensor, rng: CounterRNG, temperature: float) -> Tensor:
        if self.config.noise == 0.0:
            return torch.zeros_like(state)
        draw = rng.normal(state.shape[1], dtype=state.dtype)
        return self.config.noise * temperature * draw

    def physics(self, observation: Tensor) -> Tensor:
        raise NotImplementedError


class CartPoleOracle(_Oracle):
    def physics(self, observation: Tensor) -> Tensor:
        return observation.clone()

    def decode(self, state: State) -> Observation:
        # As the real environment: equations in float64, observations in the space's float32.
        return {"observation": state["physics"].clone()}

    def step(
        self,
        state: State,
        action: Tensor,
        *,
        rng: CounterRNG,
        temperature: float = 1.0,
        uncertainty: bool = False,
    ) -> tuple[State, Prediction]:
        x, speed, angle, spin = state["physics"].unbind(-1)
        force = 10.0 * (action[:, 1] - action[:, 0]).to(x.dtype)
        sin, cos = angle.sin(), angle.cos()
        push = (force + 0.05 * spin.square() * sin) / 1.1
        torque = (9.8 * sin - cos * push) / (0.5 * (4.0 / 3.0 - 0.1 * cos.square() / 1.1))
        thrust = push - 0.05 * torque * cos / 1.1
        tau = 0.02
        arrived = torch.stack(
            [x + tau * speed, speed + tau * thrust, angle + tau * spin, spin + tau * torque], -1
        )
        arrived = arrived + self._noise(arrived, rng, temperature)
        over = (arrived[:, 0].abs() > 2.4) | (arrived[:, 2].abs() > 12 * 2 * math.pi / 360)
        doubt = arrived[:, 0].detach().abs() if uncertainty else None
        prediction = Prediction(torch.ones_like(x), over.to(x.dtype), uncertainty=doubt)
        return {"physics": arrived}, prediction


class PendulumOracle(_Oracle):
    def physics(self, observation: Tensor) -> Tensor:
        return torch.stack(
            [torch.atan2(observation[:, 1], observation[:, 0]), observation[:, 2]], -1
        )

    def decode(self, state: State) -> Observation:
        angle, spin = state["physics"].unbind(-1)
        return {"observation": torch.stack([angle.cos(), angle.sin(), spin], -1)}

    def step(
        self,
        state: State,
        action: Tensor,
        *,
        rng: CounterRNG,
        temperature: float = 1.0,
        uncertainty: bool = False,
    ) -> tuple[State, Prediction]:
        angle, spin = state["physics"].unbind(-1)
        torque = 2.0 * action[:, 0].to(angle.dtype)
        wrapped = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        cost = wrapped.square() + 0.1 * spin.square() + 0.001 * torque.square()
        spin = (spin + (15.0 * angle.sin() + 3.0 * torque) * 0.05).clamp(-8.0, 8.0)
        arrived = torch.stack([angle + spin * 0.05, spin], -1)
        arrived = arrived + self._noise(arrived, rng, temperature)
        doubt = spin.detach().abs() if uncertainty else None
        prediction = Prediction(-cost, torch.zeros_like(cost), uncertainty=doubt)
        return {"physics": arrived}, prediction


class Still(WorldModel):
    """Whatever is seen, nothing of it moves."""

    def encode(self, context: Context, *, rng: CounterRNG) -> State:
        return context.last()

    def observe(
        self, state: State, action: Tensor, observation: Observation, *, rng: CounterRNG
    ) -> State:
        return observation

    def step(self, state: State, action: Tensor, **_: object) -> tuple[State, Prediction]:
        nothing = torch.zeros(len(action))
        return state, Prediction(nothing, nothing)

    def decode(self, state: State) -> Observation:
        return state

    def features(self, state: State) -> Tensor:
        return torch.cat([value.flatten(1) for value in state.values()], -1)


def still_twin(spec: WorldSpec) -> Twin:
    """A twin of any spec in which nothing moves."""
    codec = Codec(spec)
    zeros = {key: torch.zeros(1, *shape) for key, shape in codec.shapes.items()}
    return Twin(
        spec, "still", Still(spec, None), Context.from_observation(zeros, codec.action_size)
    )


ORACLES = {"CartPole-v1": "oracle-cartpole", "Pendulum-v1": "oracle-pendulum"}
"""Real id -> family."""


def register_oracles() -> None:
    register_world_model("oracle-cartpole", "oracle:CartPoleOracle")
    register_world_model("oracle-pendulum", "oracle:PendulumOracle")


def real_spec(real_id: str, horizon: int | None = None) -> WorldSpec:
    """The spec of a real environment, with its own horizon unless another is given."""
    env = gym.make(real_id)
    assert env.spec is not None
    spec = WorldSpec(
        env.observation_space,
        env.action_space,
        horizon or env.spec.max_episode_steps,
        seconds_per_step=0.02 if real_id.startswith("Cart") else 0.05,
        real=env.spec.to_json(),
    )
    env.close()
    return spec


def real_starts(real_id: str, number: int = 32) -> Context:
    """True starts of a real environment, as a twin stores them."""
    env = gym.make(real_id)
    rows = [torch.as_tensor(env.reset(seed=seed)[0]) for seed in range(number)]
    env.close()
    size = 2 if real_id.startswith("Cart") else 1
    return Context.from_observation({"observation": torch.stack(rows).float()}, size)


def oracle_twin(real_id: str, *, noise: float = 0.0, horizon: int | None = None) -> Twin:
    """A twin that is the real environment; its families must be registered."""
    spec = real_spec(real_id, horizon)
    model_class = CartPoleOracle if real_id.startswith("Cart") else PendulumOracle
    model = model_class(spec, OracleConfig(noise)).eval()
    return Twin(spec, ORACLES[real_id], model, real_starts(real_id))


def real_episodes(real_id: str, number: int, *, seed: int = 0, steps: int = 200) -> list[Episode]:
    """Real episodes with random actions that an oracle repeats from any of their observations.

    Each begins exactly where its first observation says; Box actions are such that float32 scales them exactly.
    """
    env = gym.make(real_id, max_episode_steps=steps)
    env.action_space.seed(seed)
    made = []
    for episode in range(number):
        observation, _ = env.reset(seed=seed + episode)
        exact = observation.astype(np.float64)
        env.unwrapped.state = (
            exact if len(exact) == 4 else np.array([np.arctan2(exact[1], exact[0]), exact[2]])
        )
        seen, actions, rewards, terminated, truncated = [observation], [], [], False, False
        while not (terminated or truncated):
            action = env.action_space.sample()
            action = np.round(action * 64) / 64 if action.shape else action
            observation, reward, terminated, truncated, _ = env.step(action)
            seen.append(observation)
            actions.append(action)
            rewards.append(reward)
        made.append(
            Episode(np.array(seen), np.array(actions), np.array(rewards), terminated, truncated)
        )
    env.close()
    return made
