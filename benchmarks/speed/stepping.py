"""Steps that `steps_per_second.py` times: each function returns a function that steps all environments once.

Actions are drawn in advance. No episode ends during the measurement, except in `vector_env_restarts`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector.utils import batch_space

from world_env.envs import WorldModelEnv, WorldModelSB3VecEnv, WorldModelVectorEnv
from world_env.models.layers.ensemble_mlp import RowGroups
from world_env.rng import CounterRNG
from world_env.simulation import Simulator, SimulatorConfig
from world_env.spec import WorldSpec
from world_env.twin import Twin

JSON = dict[str, Any]
Step = Callable[[], Any]
"""Function that steps all environments once."""

_NEVER = 10**9
_BATCHES = 16


def forward(twin: Twin, rows: int, options: JSON, *, heads: bool = True) -> Step:
    """The networks alone, for batch rows sorted by member as in a simulator."""
    model: Any = twin.model
    fast: Any = model.for_inference()
    groups = RowGroups(torch.arange(rows) * model.config.members // rows, model.config.members)
    generator = torch.Generator().manual_seed(0)
    work = []
    for name in ("dynamics", "heads") if heads else ("dynamics",):
        inputs = torch.randn(rows, getattr(model, name).weights[0].shape[1], generator=generator)
        work.append((getattr(fast, name), inputs))

    def step() -> None:
        with torch.no_grad():
            for network, inputs in work:
                network.own(inputs, groups)

    return step


def core(twin: Twin, rows: int, options: JSON) -> Step:
    """`Simulator`."""
    simulator = Simulator(twin, rows, seed=0, config=SimulatorConfig(horizon=_NEVER, **options))
    simulator.reset()
    actions = actions_of(twin.spec, rows)
    return lambda: simulator.step(next(actions))


def env(twin: Twin, rows: int, options: JSON) -> Step:
    """`gymnasium.Env`."""
    world = WorldModelEnv(twin, horizon=_NEVER, **options)
    world.reset(seed=0)
    actions = (batch[0] for batch in actions_of(twin.spec, 1))
    return lambda: world.step(next(actions))


def vector_env(twin: Twin, rows: int, options: JSON) -> Step:
    """`gymnasium.vector.VectorEnv`."""
    envs = WorldModelVectorEnv(twin, rows, horizon=_NEVER, **options)
    envs.reset(seed=0)
    actions = actions_of(twin.spec, rows)
    return lambda: envs.step(next(actions))


def vector_env_restarts(twin: Twin, rows: int, options: JSON) -> Step:
    """The same with the horizon of the task and evenly spaced episode ends: resets at every step."""
    envs = WorldModelVectorEnv(twin, rows, **options)
    observations, _ = envs.reset(seed=0)
    actions = actions_of(twin.spec, rows)
    none = next(actions)[:, None][:, :0]
    elapsed = np.arange(rows) * (twin.spec.horizon or _NEVER) // rows
    context = {"observations": observations[:, None], "actions": none, "elapsed": elapsed}
    envs.reset(seed=0, options={"context": context})
    return lambda: envs.step(next(actions))


def vec_env(twin: Twin, rows: int, options: JSON) -> Step:
    """`VecEnv` of Stable-Baselines3."""
    envs = WorldModelSB3VecEnv(twin, rows, seed=0, horizon=_NEVER, **options)
    envs.reset()
    actions = actions_of(twin.spec, rows)
    return lambda: envs.step(next(actions))


def real(env_id: str) -> Step:
    """One real environment with random actions."""
    # Not from `make_real`: counting steps costs time, and nothing is fitted to these steps.
    world = gym.make(env_id, disable_env_checker=True)
    world.action_space.seed(0)
    world.reset(seed=0)
    actions = itertools.cycle([world.action_space.sample() for _ in range(256)])

    def step() -> None:
        _, _, terminated, truncated, _ = world.step(next(actions))
        if terminated or truncated:
            world.reset()

    return step


def model_alone(part: str, twin: Twin, rows: int) -> Step:
    """The world model without a simulator: "step", "decode", or "observe" of a real observation."""
    model: Any = twin.model.for_inference()
    starts = twin.starts.select(torch.zeros(rows, dtype=torch.int64)).to("cpu", torch.float32)
    rng, action = CounterRNG.from_seed(0, rows), torch.zeros(rows, twin.codec.action_size)
    with torch.no_grad():
        state = model.encode(starts, rng=CounterRNG.from_seed(0, rows))
    observation = {key: value[:, 0] for key, value in starts.observations.items()}
    calls: dict[str, Step] = {
        "step": partial(model.step, state, action, rng=rng),
        "decode": partial(model.decode, state),
        "observe": partial(model.observe, state, action, observation, rng=rng),
    }
    return torch.no_grad()(calls[part])


NETWORKS: dict[str, Callable[[Twin, int, JSON], Step]] = {
    "forward": forward,
    "dynamics": partial(forward, heads=False),
}
WORLDS: dict[str, Callable[[Twin, int, JSON], Step]] = {
    "core": core,
    "env": env,
    "vector_env": vector_env,
    "vector_env_restarts": vector_env_restarts,
    "vec_env": vec_env,
}

_OFF: JSON = {"uncertainty": False}
PARTS: dict[str, Callable[[Twin, int], Step]] = {
    "core, latents": lambda twin, rows: core(twin, rows, _OFF | {"observation_mode": "latent"}),
    "core, images": lambda twin, rows: core(twin, rows, _OFF),
    "vec_env, latents": lambda twin, rows: vec_env(
        twin, rows, _OFF | {"observation_mode": "latent"}
    ),
    "vec_env, images": lambda twin, rows: vec_env(twin, rows, _OFF),
    "model.step": partial(model_alone, "step"),
    "model.decode": partial(model_alone, "decode"),
    "model.observe": partial(model_alone, "observe"),
}
"""Cases of twins with image observations."""


def actions_of(spec: WorldSpec, rows: int) -> Iterator[Any]:
    """Endless batches of random actions, drawn before the measurement."""
    space = batch_space(spec.action_space, rows)
    space.seed(0)
    return itertools.cycle([space.sample() for _ in range(_BATCHES)])
