"""Stage: collect episodes in a real environment.

The seeds of each episode derive from (seed, episode number): a resumed collection gives the same episodes as an
uninterrupted one. Real steps that a kill lost stay counted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from world_env.atomic_io import FolderError, folder_lock
from world_env.collection.config import CollectConfig
from world_env.collection.exploration import make_exploration
from world_env.data.episode import Episode
from world_env.data.store import EpisodeStore
from world_env.data.validation.lint import lint
from world_env.device import torch_defaults
from world_env.errors import StageError
from world_env.policies.protocol import Policy
from world_env.real.api_check import check_real
from world_env.real.real_env import make_real, spec_of
from world_env.real.step_ledger import StepLedger
from world_env.results.lint_issue import LintIssue
from world_env.rollouts.real import ONE, steps_in_real
from world_env.run_config import check_same_config, keep_config
from world_env.seeding import SeedPurpose, derived_seed
from world_env.spec import WorldSpec

Progress = Callable[[int, int], None]
"""Called after each episode with (steps collected, steps in total)."""
OnIssues = Callable[[Sequence[LintIssue]], None]
"""Called at the end of a collection with the errors and warnings of `lint`, errors first."""

_MAX_SECONDS_IN_MEMORY = 30.0
"""Longest time that complete episodes are kept in memory only, checked after each episode."""
_log = logging.getLogger(__name__)


def log_issues(issues: Sequence[LintIssue]) -> None:
    """Log each issue in one line."""
    for issue in issues:
        _log.log(logging.ERROR if issue.severity == "error" else logging.WARNING, "lint: %s", issue)


@dataclass
class _Pending:
    """Complete episodes that are not on disk yet, by episode number."""

    store: EpisodeStore
    ledger: StepLedger
    episodes: dict[int, Episode] = field(default_factory=dict)
    flushed: float = field(default_factory=time.monotonic)

    @property
    def steps(self) -> int:
        return sum(map(len, self.episodes.values()))

    def flush(self) -> None:
        # An interrupted flush is repeated: episodes that the store holds are not added again.
        self.episodes = {n: e for n, e in self.episodes.items() if n >= len(self.store)}
        self.ledger.save()
        self.store.append(list(self.episodes.values()), real_steps=self.ledger.by_purpose)
        self.episodes = {}
        self.flushed = time.monotonic()


@torch_defaults()
def collect(
    config: CollectConfig,
    *,
    ledger: StepLedger | None = None,
    progress: Progress | None = None,
    on_issues: OnIssues | None = log_issues,
) -> EpisodeStore:
    """Collect real episodes into the store at `config.out`, up to `config.steps` steps in total.

    An interrupted collection is resumed. After an interrupt or an error, the complete episodes are kept.

    ledger: a second ledger that counts the same steps, for example of a whole pipeline. The folder holds its own,
        `steps.json`.
    progress: called after each episode with (steps collected, steps in total).
    on_issues: called at the end with the errors and warnings that `lint` finds in the store; the data are kept. By
        default they are logged. None: the data are not checked.

    Before the first step of a new collection, `check_real` checks the environment with one step, counted under
    "validate".

    Raises ConfigMismatchError if the folder holds a collection with other settings, StageError if it has more steps or
    another process collects into it, EnvApiError for NaN or infinite values of the environment, and what `make_real`
    raises.
    """
    own = StepLedger(
        Path(config.out) / "steps.json", parent=ledger, max_steps=config.max_real_steps
    )
    spec = spec_of(config.real)
    try:
        # Two processes that collect into one folder would both take the real steps of the same episodes.
        with folder_lock(Path(config.out).resolve(), "episode store"):
            store = _collect(config, spec, own, progress)
    except FolderError as error:
        raise StageError(str(error)) from error
    if on_issues is not None:
        on_issues([i for i in lint(store.load(), store.spec) if i.severity != "note"])
    return store


def _collect(
    config: CollectConfig, spec: WorldSpec, ledger: StepLedger, progress: Progress | None
) -> EpisodeStore:
    policy = make_exploration(config.exploration, spec)
    store = _open(config, spec)
    if store.steps >= config.steps:
        return store
    if not store.steps:
        check_real(config.real, ledger=ledger)
    _replay(policy, store, config.seed)
    pending = _Pending(store, ledger)
    # Made last: of some environments only one can be open.
    env = make_real(config.real, purpose=config.purpose, ledger=ledger)
    try:
        while (done := store.steps + pending.steps) < config.steps:
            number = len(store) + len(pending.episodes)
            episode = _play(env, policy, config.seed, number, config.steps - done)
            pending.episodes[number] = episode
            if progress is not None:
                progress(done + len(episode), config.steps)
            # Steps of a slow environment are expensive, so few of them are not kept in memory for long.
            waited = time.monotonic() - pending.flushed > _MAX_SECONDS_IN_MEMORY
            if waited or pending.steps >= config.shard_steps:
                pending.flush()
    finally:
        env.close()
        pending.flush()
    return store


def _open(config: CollectConfig, spec: WorldSpec) -> EpisodeStore:
    tree = config.to_json()
    provenance = {name: tree[name] for name in ("real", "exploration", "seed", "purpose")}
    store = EpisodeStore(config.out) if EpisodeStore.exists(config.out) else None
    if store is not None:
        # Also those of a store that `collect` did not make, which has no file of settings.
        found = {name: store.provenance.get(name) for name in provenance}
        stored, wanted = ({"spec": each.to_json()} for each in (store.spec, spec))
        check_same_config(found | stored, provenance | wanted, config.out)
        if store.steps > config.steps:
            raise StageError(
                f"steps is {config.steps}, but {config.out} already holds {store.steps} steps: give at least as many, "
                "or choose another folder"
            )
    keep_config(config.out, tree, may_change=("steps",))
    if store is None:
        return EpisodeStore.create(config.out, spec, provenance=provenance)
    return store


def _replay(policy: Policy, store: EpisodeStore, seed: int) -> None:
    """Report the stored episodes to a policy, for what it keeps across episodes."""
    space = store.spec.action_space
    episodes = store.load() if policy.uses_observations else None
    for number, length in enumerate(store.lengths):
        policy.reset(ONE, [derived_seed(seed, SeedPurpose.COLLECT_EXPLORATION, number)])
        if episodes is not None:
            stored = episodes[number]
            policy.replay(stored.observations, stored.actions, stored.rewards)
        else:
            # Only the number of steps counts: the other policies keep no actions across episodes.
            actions = np.zeros((length, *(space.shape or ())), space.dtype)
            policy.replay(None, actions, np.zeros(length))


def _play(env: gym.Env, policy: Policy, seed: int, number: int, limit: int) -> Episode:
    """Play episode `number` of a collection."""
    policy_seed = derived_seed(seed, SeedPurpose.COLLECT_EXPLORATION, number)
    reset_seed = derived_seed(seed, SeedPurpose.COLLECT_RESET, number)
    return play(env, policy, reset_seed, limit, policy_seed=policy_seed)


def play(
    env: gym.Env,
    policy: Policy,
    reset_seed: int,
    limit: int,
    *,
    policy_seed: int | None = None,
) -> Episode:
    """Play and record one episode of at most `limit` steps; a longer episode is truncated there.

    reset_seed: seed of the environment's reset. policy_seed: of the policy's random numbers; None: the same.
    """
    observation, _ = env.reset(seed=reset_seed)
    policy.reset(ONE, [reset_seed if policy_seed is None else policy_seed])
    recorded = [_copy(observation, env.observation_space)]
    actions: list[np.ndarray] = []
    rewards: list[float] = []
    terminated = truncated = False
    for step in steps_in_real(policy, env, observation):
        actions.append(np.array(step.action, dtype=env.action_space.dtype))
        recorded.append(_copy(step.observation, env.observation_space))
        rewards.append(step.reward)
        terminated = step.terminated
        truncated = step.truncated or (len(actions) >= limit and not terminated)
        if truncated:
            break
    observations: Any = np.stack(recorded) if not isinstance(recorded[0], dict) else {
        key: np.stack([entry[key] for entry in recorded]) for key in recorded[0]
    }  # fmt: skip
    return Episode(
        observations,
        np.stack(actions),
        np.array(rewards, np.float32),
        terminated=bool(terminated),
        truncated=bool(truncated),
        seed=reset_seed,
    )


def _copy(observation: Any, space: spaces.Space[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _copy(observation[key], part) for key, part in space.spaces.items()}
    return np.array(observation, dtype=space.dtype)
