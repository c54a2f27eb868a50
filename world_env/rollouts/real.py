"""Rollouts of a policy in the real environment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from world_env.real.real_env import make_real
from world_env.real.step_ledger import StepLedger
from world_env.rollouts.actors import Actor, begin_episodes
from world_env.rollouts.returns import Returns, stacked
from world_env.spaces import copied
from world_env.spec import EnvConfig

_REWARD_TERM = "reward_"
"""Prefix of the reward terms in the `info` of MuJoCo environments."""


def first_observations(real: EnvConfig, seeds: Sequence[int]) -> Any:
    """Reset the real environment once per seed and return the batched first observations. No step is taken."""
    env = make_real(real, purpose="judge", ledger=StepLedger())
    try:
        return stacked([copied(env.reset(seed=int(seed))[0]) for seed in seeds])
    finally:
        env.close()


def run_real(
    actor: Actor, real: EnvConfig, seeds: Sequence[int], *, purpose: str, ledger: StepLedger
) -> Returns:
    """Play one real episode per reset seed, in parallel.

    purpose: purpose under which the ledger counts every step.
    """
    envs = [make_real(real, purpose=purpose, ledger=ledger) for _ in seeds]
    current = [env.reset(seed=int(seed))[0] for env, seed in zip(envs, seeds, strict=True)]
    first = stacked(current)
    values, lengths = np.zeros(len(envs)), np.zeros(len(envs), np.int64)
    parts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(envs)))
    running = np.arange(len(envs))
    begin_episodes(actor)
    while len(running):
        actions = actor(stacked([current[row] for row in running]), running)
        still = []
        for row, action in zip(running, actions, strict=True):
            current[row], reward, terminated, truncated, info = envs[row].step(action)
            values[row] += float(reward)
            lengths[row] += 1
            for name, part in info.items():
                if name.startswith(_REWARD_TERM) and isinstance(part, Real):
                    parts[name][row] += float(part)
            if not (terminated or truncated):
                still.append(row)
        running = np.array(still, int)
    for env in envs:
        env.close()
    return Returns(values, lengths, first, parts=dict(parts))
