"""Count-based exploration tries every pair of state and action, also those that random actions do not reach."""

from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from world_env import CollectConfig, EnvConfig, collect
from world_env.collection.exploration import make_exploration
from world_env.errors import InvalidOptionError, ResetNeededError
from world_env.policies.config import (
    CountBasedExploration,
    ExplorationConfig,
    MixtureExploration,
    RandomExploration,
)
from world_env.policies.count_based_policy import CountBasedPolicy
from world_env.real.real_env import spec_of
from world_env.spec import WorldSpec

ONE = np.zeros(1, np.int64)
LENGTH = 16


class Chain(gym.Env):
    """States in a row: action 1 goes one state on, action 0 back to the first one. The last state ends the episode."""

    observation_space = spaces.Discrete(LENGTH)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = 0
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.state = self.state + 1 if action == 1 else 0
        return self.state, 0.0, self.state == LENGTH - 1, False, {}


def pairs(folder: Path, real: EnvConfig, steps: int, kind: ExplorationConfig) -> Counter[Any]:
    config = CollectConfig(real, folder, steps, exploration=kind)
    episodes = collect(config, on_issues=None).load()
    return Counter(
        pair
        for episode in episodes
        for pair in zip(episode.observations.tolist(), episode.actions.tolist(), strict=False)
    )


def test_every_pair_of_a_chain_is_tried(tmp_path: Path) -> None:
    real = EnvConfig(Chain, horizon=100)
    counted = pairs(tmp_path / "counted", real, 1_500, CountBasedExploration())
    random = pairs(tmp_path / "random", real, 1_500, RandomExploration())
    assert len(counted) == 2 * (LENGTH - 1) and min(counted.values()) >= 5
    assert max(state for state, _ in random) < LENGTH - 2


@pytest.mark.parametrize(
    "kind",
    [
        CountBasedExploration(),
        MixtureExploration((RandomExploration(), CountBasedExploration()), (0.5, 0.5)),
    ],
)
def test_a_resumed_collection_is_that_of_one_run(kind: ExplorationConfig, tmp_path: Path) -> None:
    real = EnvConfig("FrozenLake-v1")
    straight = collect(CollectConfig(real, tmp_path / "a", 700, exploration=kind)).load()

    def interrupt(done: int, of: int) -> None:
        if done > 300:
            raise KeyboardInterrupt

    config = CollectConfig(real, tmp_path / "b", 700, exploration=kind)
    with pytest.raises(KeyboardInterrupt):
        collect(config, progress=interrupt)
    resumed = collect(config).load()
    assert len(resumed) == len(straight) > 10
    for one, other in zip(resumed, straight, strict=True):
        np.testing.assert_array_equal(one.actions, other.actions)
        np.testing.assert_array_equal(one.observations, other.observations)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([3, 2]),
        spaces.MultiDiscrete([2, 3], start=[4, -2]),
        spaces.MultiBinary(3),
        spaces.MultiBinary((2, 2)),
    ],
)
def test_all_actions_of_any_categories_are_tried_once_before_one_twice(
    space: spaces.Space[Any],
) -> None:
    seen = spaces.Dict(pair=spaces.MultiDiscrete([2, 2]), bits=spaces.MultiBinary(2))
    policy = CountBasedPolicy(WorldSpec(seen, space))
    observation = {"pair": np.array([[1, 0]]), "bits": np.array([[0, 1]], np.int8)}
    policy.reset(ONE, [0])
    number = policy._actions
    tried = Counter()
    for _ in range(20 * number):
        action = policy.act(observation, ONE)
        assert space.contains(action[0])
        policy.executed(action, ONE)
        tried[action.tobytes()] += 1
    assert len(tried) == number and min(tried.values()) >= 10


def test_states_are_told_apart_by_every_key() -> None:
    seen = spaces.Dict(a=spaces.Discrete(2), b=spaces.Discrete(2))
    policy = CountBasedPolicy(WorldSpec(seen, spaces.Discrete(50)))
    policy.reset(ONE, [0])
    for a, b in ((0, 1), (1, 0)):
        action = policy.act({"a": np.array([a]), "b": np.array([b])}, ONE)
        policy.executed(action, ONE)
    assert len(policy._table._states) == 2


def test_a_fork_counts_for_itself() -> None:
    policy = CountBasedPolicy(spec_of(EnvConfig("FrozenLake-v1")))
    policy.reset(ONE, [0])
    for state in (0, 4, 0, 1):
        policy.executed(policy.act(np.array([state]), ONE), ONE)
    before = policy._table.values.copy()
    fork = policy.fork(2)
    index = np.arange(2)
    fork.executed(fork.act(np.array([5, 6]), index), index)
    np.testing.assert_array_equal(policy._table.values, before)
    with pytest.raises(ResetNeededError):
        CountBasedPolicy(spec_of(EnvConfig("FrozenLake-v1"))).act(np.array([0]), ONE)


def test_states_without_categories_are_refused_before_a_step(tmp_path: Path) -> None:
    kind = CountBasedExploration()
    with pytest.raises(InvalidOptionError, match=r"'observation' is a Box.*random or held"):
        make_exploration(kind, spec_of(EnvConfig("CartPole-v1")))
    with pytest.raises(InvalidOptionError, match="'action' is a Box"):
        make_exploration(kind, WorldSpec(spaces.Discrete(3), spaces.Box(-1, 1)))
    named = spaces.Dict(action=spaces.Box(-1, 1), place=spaces.Discrete(3))
    with pytest.raises(InvalidOptionError, match="'action' is a Box"):
        make_exploration(kind, WorldSpec(named, spaces.Discrete(2)))
    with pytest.raises(InvalidOptionError, match="has 2048 actions: expected at most 1024"):
        make_exploration(kind, WorldSpec(spaces.Discrete(3), spaces.MultiBinary(11)))
    with pytest.raises(InvalidOptionError, match="is a Box"):
        collect(CollectConfig(EnvConfig("CartPole-v1"), tmp_path, 50, exploration=kind))
    assert not (tmp_path / "steps.json").exists()
