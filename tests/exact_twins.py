"""Twins of small tasks by a formula: one with goals, and one with masks of valid actions."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from world_env.batch import Context
from world_env.models.base import Prediction, WorldModel
from world_env.spec import WorldSpec
from world_env.twin.twin import Twin

BOX = spaces.Box(-1.0, 1.0, (1,), np.float32)
GOALS = spaces.Dict(dict.fromkeys(("observation", "achieved_goal", "desired_goal"), BOX))
MASK = spaces.Box(0, 1, (3,), np.int8)
MASKED = spaces.Dict({"place": BOX, "valid": MASK})


class Exact(WorldModel):
    """World model of a formula: its state is the observation."""

    def encode(self, context, *, rng):  # type: ignore[no-untyped-def]
        return dict(context.last())

    def observe(self, state, action, observation, *, rng):  # type: ignore[no-untyped-def]
        return dict(observation)

    def decode(self, state):  # type: ignore[no-untyped-def]
        return dict(state)

    def features(self, state):  # type: ignore[no-untyped-def]
        return torch.cat(list(state.values()), -1)

    def step(self, state, action, *, rng, temperature=1.0, uncertainty=False):  # type: ignore[no-untyped-def]
        arrived, reward = self.move(state, action)
        return arrived, Prediction(reward=reward, terminated=torch.zeros(len(reward)))


class Reach(Exact):
    """A point moves; the model predicts a reward that is no use."""

    def move(self, state, action):  # type: ignore[no-untyped-def]
        place = (state["observation"] + 0.2 * action).clamp(-1, 1)
        arrived = state | {"observation": place, "achieved_goal": place}
        return arrived, torch.full((len(action),), -7.0)


def reached(achieved: Any, desired: Any, info: Any) -> Any:
    return -(np.linalg.norm(achieved - desired, axis=-1) > 0.1).astype(np.float32)


def goal_twin(**known: Any) -> Twin:
    spec = WorldSpec(GOALS, BOX, horizon=10)
    rng = np.random.default_rng(0)
    places, wanted = (torch.from_numpy(rng.uniform(-0.9, 0.9, (200, 1))).float() for _ in range(2))
    first = {"observation": places, "achieved_goal": places, "desired_goal": wanted}
    begun = Context.from_observation(first, action_size=1)
    return Twin(spec, "reach", Reach(spec, None).eval(), starts=begun, **known)


def valid_at(place: Any) -> Any:
    """Left of 0 the actions 0 and 1 are valid, right of it 1 and 2. (B,) -> (B, 3)."""
    left = place < 0
    return np.stack([left, np.ones_like(left), ~left], -1)


class Masked(gym.Env):
    """Actions move left, stay and move right. A step with an invalid action fails."""

    observation_space, action_space = MASKED, spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.place = float(self.np_random.uniform(-0.5, 0.5))
        return self.seen(), {}

    def seen(self) -> dict[str, Any]:
        place = np.array([self.place], np.float32)
        return {"place": place, "valid": valid_at(place)[0].astype(np.int8)}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.seen()["valid"][int(action)], "invalid action"
        self.place = float(np.clip(self.place + 0.1 * (int(action) - 1), -1, 1))
        return self.seen(), 1.0, False, False, {}


gym.register("Masked-v0", entry_point=Masked, max_episode_steps=12)


class MaskedModel(Exact):
    """World model of `Masked`: the mask of the next observation is a number near 0 or 1."""

    def move(self, state, action):  # type: ignore[no-untyped-def]
        place = (state["place"] + 0.1 * (action.argmax(-1, keepdim=True) - 1)).clamp(-1, 1)
        valid = torch.from_numpy(valid_at(place[:, 0].numpy())).float() * 0.8 + 0.1
        return {"place": place, "valid": valid}, torch.ones(len(action))


def masked_twin() -> Twin:
    spec = WorldSpec(MASKED, spaces.Discrete(3), horizon=12)
    place = np.random.default_rng(0).uniform(-0.5, 0.5, (200, 1)).astype(np.float32)
    first = {"place": place, "valid": valid_at(place[:, 0]).astype(np.float32)}
    begun = Context.from_observation({k: torch.from_numpy(v) for k, v in first.items()}, 3)
    return Twin(spec, "masked", MaskedModel(spec, None).eval(), starts=begun)
