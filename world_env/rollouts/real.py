"""Rollouts of a policy in the real environment: whole episodes, one after another or in worker processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import gymnasium as gym
import numpy as np

from world_env.errors import InvalidOptionError
from world_env.policies.loading import AnyPolicy, as_policy
from world_env.policies.protocol import Policy
from world_env.real.env_config import AnyEnv, as_env_config, check_can_be_copied
from world_env.real.real_env import make_real, spec_of
from world_env.real.step_ledger import StepLedger
from world_env.rollouts.returns import Returns
from world_env.spaces import copied, one_row, stacked
from world_env.spec import EnvConfig
from world_env.struct import integer

_REWARD_TERM = "reward_"
"""Prefix of the reward terms in the `info` of MuJoCo environments."""
ONE = np.zeros(1, np.int64)
"""Index of the only environment."""


@dataclass(frozen=True)
class RealStep:
    """One real step: its action, and what `env.step` returned. The environment may fill the same observation again."""

    action: Any
    observation: Any
    reward: float
    terminated: bool
    truncated: bool
    info: Mapping[str, Any]


@dataclass(frozen=True)
class RealEpisode:
    """Sums over one real episode. first: first observation. parts: reward terms by name, as in `Returns`."""

    first: Any
    value: float
    length: int
    parts: dict[str, float]


def first_observations(real: AnyEnv, seeds: Sequence[int]) -> Any:
    """Reset the real environment once per seed and return the batched first observations. No step is taken."""
    env = make_real(real, purpose="judge", ledger=StepLedger())
    try:
        return stacked([copied(env.reset(seed=int(seed))[0]) for seed in seeds])
    finally:
        env.close()


def run_real(
    policy: AnyPolicy,
    real: AnyEnv,
    seeds: Sequence[int],
    *,
    purpose: str,
    ledger: StepLedger,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Returns:
    """Play one whole real episode per reset seed. The results have the order of the seeds.

    policy: what `world_env.policies.as_policy` takes. real: what `world_env.real.as_env_config` takes.
    seeds: reset seeds, also the seeds of the policy's random numbers.
    purpose: purpose under which the ledger counts every step.
    workers: number of processes that play episodes, each with an environment and a copy of the policy. The returns do
        not depend on it. With more than one, a script must start under `if __name__ == "__main__"`, and the id of an
        environment that it registers must name an importable module, "module:Id".
    progress: called with the number of finished episodes.
    Raises SpaceMismatchError for a trained policy of other spaces, StageError for an episode that kills its processes
    and for an environment object with more than one worker, and what `make_real` and the environment raise.
    """
    real = as_env_config(real)
    if not isinstance(policy, Policy):
        policy = as_policy(policy, spec_of(real))
    workers = integer(workers, "workers")
    if workers < 1:
        raise InvalidOptionError(f"workers must be >= 1, got {workers}")
    if not len(seeds):
        raise InvalidOptionError("seeds is empty: expected one reset seed for each episode")
    if workers > 1:
        check_can_be_copied(real, f"workers={workers}")
    workers = min(workers, len(seeds))
    try:
        if workers == 1:
            episodes = _play_here(policy, real, seeds, purpose, ledger, progress)
        else:
            from world_env.rollouts.workers import play_in_workers

            episodes = play_in_workers(policy, real, seeds, purpose, ledger, workers, progress)
    finally:
        # The exact counts, after an interrupt too.
        ledger.save()
    parts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(episodes)))
    for i, episode in enumerate(episodes):
        for name, value in episode.parts.items():
            parts[name][i] = value
    return Returns(
        np.array([episode.value for episode in episodes]),
        np.array([episode.length for episode in episodes], np.int64),
        stacked([episode.first for episode in episodes]),
        parts=dict(parts),
    )


def _play_here(
    policy: Policy,
    real: EnvConfig,
    seeds: Sequence[int],
    purpose: str,
    ledger: StepLedger,
    progress: Callable[[int], None] | None,
) -> list[RealEpisode]:
    episodes = []
    env = make_real(real, purpose=purpose, ledger=ledger)
    try:
        for seed in seeds:
            episodes.append(play_episode(policy, env, int(seed)))
            if progress is not None:
                progress(len(episodes))
    finally:
        env.close()
    return episodes


def steps_in_real(policy: Policy, env: gym.Env, observation: Any) -> Iterator[RealStep]:
    """Step the real environment with a policy until the episode ends, and yield each step.

    policy: reset, or in a running episode. env: reset, or in a running episode; `observation` is its last one.
    """
    ended = False
    while not ended:
        action = policy.act(one_row(observation), ONE)
        observation, reward, terminated, truncated, info = env.step(action[0])
        policy.executed(action, ONE)
        policy.rewarded(np.array([reward], np.float32), ONE)
        yield RealStep(action[0], observation, float(reward), terminated, truncated, info)
        ended = terminated or truncated


def play_episode(policy: Policy, env: gym.Env, seed: int) -> RealEpisode:
    """Play one whole episode. seed: of the environment's reset and of the policy's random numbers."""
    # A copy: what a policy keeps across episodes, as a mixture does, would depend on the process that plays them.
    policy = policy.fork(1)
    observation = env.reset(seed=seed)[0]
    first = copied(observation)
    policy.reset(ONE, [seed])
    value, length, parts = 0.0, 0, defaultdict[str, float](float)
    for step in steps_in_real(policy, env, observation):
        value, length = value + step.reward, length + 1
        for name, part in step.info.items():
            if name.startswith(_REWARD_TERM) and isinstance(part, Real):
                parts[name] += float(part)
    return RealEpisode(first, value, length, dict(parts))
