"""Explorations act the same after the same reset; policies survive the disk, or say why not."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TQC
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.sac.policies import SACPolicy

from world_env.collection.exploration import make_exploration
from world_env.errors import InvalidOptionError, SpaceMismatchError, StageError
from world_env.policies.config import (
    ExplorationConfig,
    HeldExploration,
    MixtureExploration,
    PolicyExploration,
    RandomExploration,
    StuckSensorsExploration,
    random_and_held,
)
from world_env.policies.function_policy import FunctionPolicy
from world_env.policies.normalization import NormalizedFeatures
from world_env.policies.protocol import Policy
from world_env.policies.saved_policy import FORMAT, load_policy, policy_card, save_policy
from world_env.policies.scaled_critics import ScaledCriticsPolicy
from world_env.policies.stuck_sensors_policy import StuckSensorsPolicy
from world_env.real.real_env import spec_of
from world_env.spec import EnvConfig, WorldSpec
from world_env.struct import converted

OBSERVATIONS = spaces.Box(-1, 1, (3,), np.float32)
ACTIONS = {
    "box": spaces.Box(-2, 2, (4,), np.float32),
    "unbounded": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    "discrete": spaces.Discrete(5, start=2),
    "multi": spaces.MultiDiscrete([2, 3]),
}


ONE = np.zeros(1, np.int64)
SEEN = np.zeros((1, 3), np.float32)


def act(policy: Policy, seen: np.ndarray = SEEN) -> Any:
    action = policy.act(seen, ONE)
    policy.executed(action, ONE)
    return action[0]


def actions_of(policy: Policy, seed: int, steps: int = 40) -> np.ndarray:
    policy.reset(ONE, [seed])
    return np.array([act(policy) for _ in range(steps)])


RANDOM = RandomExploration()


def standing(*weights: float) -> MixtureExploration:
    """A mixture of random actions and of one action that is held throughout."""
    return MixtureExploration(parts=(RANDOM, HeldExploration(steps=1_000_000)), weights=weights)


@pytest.mark.parametrize("space", ACTIONS.values(), ids=ACTIONS)
@pytest.mark.parametrize("config", [RANDOM, HeldExploration(steps=8), random_and_held(8)], ids=str)
def test_the_same_seed_acts_the_same_and_within_the_space(
    config: ExplorationConfig, space: spaces.Space
) -> None:
    exploration, again = (
        make_exploration(config, WorldSpec(OBSERVATIONS, space)) for _ in range(2)
    )
    first, other = actions_of(exploration, 3), actions_of(exploration, 4)
    np.testing.assert_array_equal(first, actions_of(again, 3))
    np.testing.assert_array_equal(other, actions_of(again, 4))
    assert (first != other).any()
    for _ in range(20):
        assert space.contains(act(exploration))


def test_exploring_never_touches_the_environments_own_sampler() -> None:
    space = spaces.Discrete(1000, seed=1)
    twin = spaces.Discrete(1000, seed=1)
    actions_of(make_exploration(RANDOM, WorldSpec(OBSERVATIONS, space)), 0)
    assert space.sample() == twin.sample()


def test_held_actions_last_as_long_as_asked_and_reach_the_bounds() -> None:
    spec = WorldSpec(OBSERVATIONS, ACTIONS["box"])
    actions = actions_of(make_exploration(HeldExploration(steps=10), spec), 0, steps=4000)
    changed = (np.diff(actions, axis=0) != 0).mean()
    # A fresh bound may equal the held one.
    assert 0.07 < changed < 0.105
    assert 0.35 < (np.abs(actions) == 2).mean() < 0.65


def held_throughout(actions: np.ndarray) -> bool:
    return bool((np.ptp(actions, axis=0) == 0).all())


def test_a_mixture_keeps_one_part_for_a_whole_episode_and_to_their_shares() -> None:
    exploration = make_exploration(standing(1, 3), WorldSpec(OBSERVATIONS, ACTIONS["box"]))
    held = [held_throughout(actions_of(exploration, seed)) for seed in range(400)]
    assert np.mean(held) == pytest.approx(0.75, abs=0.01)


def test_the_shares_of_a_mixture_are_of_steps_and_not_of_episodes() -> None:
    exploration = make_exploration(standing(1, 1), WorldSpec(OBSERVATIONS, ACTIONS["box"]))
    steps = {True: 0, False: 0}
    for seed in range(300):
        exploration.reset(ONE, [seed])
        first = np.array([act(exploration) for _ in range(10)])
        held = held_throughout(first)
        # Whoever holds its action stands for a long time, whoever does not falls at once.
        for _ in range(190 if held else 0):
            act(exploration)
        steps[held] += 200 if held else 10
    assert steps[True] / sum(steps.values()) == pytest.approx(0.5, abs=0.05)


def test_a_mixture_that_goes_on_after_a_kill_chooses_as_it_would_have() -> None:
    spec = WorldSpec(OBSERVATIONS, ACTIONS["box"])
    whole, resumed = (make_exploration(standing(1, 2), spec) for _ in range(2))
    lengths = [40, 3, 25, 8, 60, 2, 90, 4]
    before = [actions_of(whole, seed, length) for seed, length in enumerate(lengths)]
    for seed, length in enumerate(lengths[:5]):
        resumed.reset(ONE, [seed])
        resumed.executed(np.zeros((length, 4)), np.zeros(length, np.int64))
    for seed, length in list(enumerate(lengths))[5:]:
        np.testing.assert_array_equal(before[seed], actions_of(resumed, seed, length))


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (
            {"kind": "held", "steps": 0},
            "steps of held actions is 0.0, expected a finite number >= 1",
        ),
        ({"kind": "held", "steps": "20"}, r"Expected `float`, got `str` - at `\$.steps`"),
        ({"kind": "held"}, "missing required field `steps`"),
        ({"kind": "random", "steps": 3}, "unknown field `steps`"),
        ({"kind": "fun"}, "Invalid value 'fun' - at `\\$.kind`"),
        ({"kind": "stuck_sensors", "path": "p", "share": 1.5}, "share of stuck dimensions is 1.5"),
        ({"kind": "stuck_sensors", "path": "p", "share": 0}, "share of stuck dimensions is 0"),
        ({"kind": "mixture", "parts": [], "weights": []}, "mixture of 0 explorations"),
        ({"kind": "mixture", "parts": [{"kind": "random"}], "weights": [0]}, r"weights \[0.0\]"),
        ({"kind": "mixture", "parts": [{"kind": "random"}], "weights": [1, 2]}, "one weight >= 0"),
        ("held:20", "got `str`"),
    ],
)
def test_an_impossible_exploration_is_named(tree: Any, words: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"the file: .*{words}"):
        converted(tree, ExplorationConfig, where="the file")


def test_an_exploration_that_is_no_config_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match=r"'held:20'.*HeldExploration"):
        make_exploration("held:20", WorldSpec(OBSERVATIONS, ACTIONS["box"]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "config", [random_and_held(3), StuckSensorsExploration(path="p", share=0.2)]
)
def test_an_exploration_is_read_back_from_its_json(config: ExplorationConfig) -> None:
    tree = json.loads(json.dumps(config.to_json()))
    assert converted(tree, ExplorationConfig, where="the file") == config


def trained(algorithm: type[BaseAlgorithm], env_id: str, **arguments: Any) -> BaseAlgorithm:
    return algorithm("MlpPolicy", gym.make(env_id), device="cpu", seed=3, **arguments)


@pytest.mark.parametrize(
    ("algorithm", "env_id"), [(PPO, "CartPole-v1"), (SAC, "Pendulum-v1"), (DQN, "CartPole-v1")]
)
def test_a_policy_survives_the_disk(
    tmp_path: Path, algorithm: type[BaseAlgorithm], env_id: str
) -> None:
    model = trained(algorithm, env_id)
    spec = spec_of(EnvConfig(env_id))
    folder = save_policy(model, tmp_path / "p", trained_in="real", provenance={"steps": 0})
    card = policy_card(folder)
    assert (card.algorithm, card.trained_in, card.seed) == (algorithm.__name__, "real", 3)
    again = load_policy(folder, expect=spec)
    seen = np.stack([spec.observation_space.sample() for _ in range(8)]).clip(-5, 5)
    np.testing.assert_array_equal(
        again.predict(seen, deterministic=True)[0], model.predict(seen, deterministic=True)[0]
    )
    assert algorithm.load(folder / "policy.zip", env=gym.make(env_id)) is not None
    # Once more into the same folder, and nothing is left beside.
    save_policy(model, folder, trained_in="learned")
    assert policy_card(folder).trained_in == "learned"
    assert {path.name for path in tmp_path.iterdir()} == {"p", ".p.lock"}


def test_a_saved_policy_explores_with_noise_of_its_own(tmp_path: Path) -> None:
    spec = spec_of(EnvConfig("Pendulum-v1"))
    folder = save_policy(trained(PPO, "Pendulum-v1"), tmp_path / "p", trained_in="real")
    exploration = make_exploration(PolicyExploration(path=str(folder)), spec)
    before = torch.get_rng_state()
    first = actions_of(exploration, 1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    np.testing.assert_array_equal(first, actions_of(exploration, 1))
    assert (first != actions_of(exploration, 2)).any()
    greedily = PolicyExploration(path=str(folder), deterministic=True)
    greedy = actions_of(make_exploration(greedily, spec), 1)
    assert (greedy == greedy[0]).all()


def test_stuck_sensors_show_one_value_an_episode_and_the_others_the_truth(tmp_path: Path) -> None:
    spec = spec_of(EnvConfig("CartPole-v1"))
    center, scale = np.array([10.0, 20.0, 30.0, 40.0]), np.array([0.1, 0.2, 0.3, 0.4])
    model = PPO("MlpPolicy", gym.make("CartPole-v1"), seed=0, policy_kwargs={
        "features_extractor_class": NormalizedFeatures,
        "features_extractor_kwargs": {"mean": center.tolist(), "scale": scale.tolist()},
    })  # fmt: skip
    folder = save_policy(model, tmp_path / "p", trained_in="real")
    seen: list[np.ndarray] = []

    def record(observations: np.ndarray) -> np.ndarray:
        seen.append(observations)
        return np.zeros(1, np.int64)

    exploration: Policy = StuckSensorsPolicy.of(FunctionPolicy(record), model, 0.5)
    stuck, shown = [], []
    for seed in range(400):
        exploration.reset(ONE, [seed])
        seen.clear()
        for step in range(3):
            act(exploration, np.full((1, 4), -step, np.float32))
        episode = np.concatenate(seen)
        assert episode.dtype == np.float32
        broken = episode[0] != 0
        np.testing.assert_array_equal(episode[:, broken], episode[[0, 0, 0]][:, broken])
        told = np.repeat([[0.0], [-1.0], [-2.0]], int((~broken).sum()), axis=1)
        np.testing.assert_array_equal(episode[:, ~broken], told)
        stuck.append(broken)
        shown.append(np.where(broken, (episode[0] - center) / scale, np.nan))
    assert {int(broken.sum()) for broken in stuck} == {2}
    # 400 episodes, 800 values: within four standard errors of every sensor's turn, and of two scales around the mean.
    assert abs(np.mean(stuck, axis=0) - 0.5).max() < 0.1
    assert abs(np.nanmean(shown)) < 0.3 and 1.8 < np.nanstd(shown) < 2.2
    exploration = make_exploration(StuckSensorsExploration(path=str(folder), share=0.5), spec)
    runs = []
    for _ in range(2):
        exploration.reset(ONE, [7])
        runs.append([act(exploration, np.zeros((1, 4), np.float32)) for _ in range(20)])
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("kind", "task"),
    [(DQN, "CartPole-v1"), (SAC, "Pendulum-v1"), (TD3, "Pendulum-v1"), (TQC, "Pendulum-v1")],
)
def test_sensors_are_stuck_near_the_data_of_a_policy_of_any_algorithm(kind: Any, task: str) -> None:
    env = gym.make(task)
    assert env.observation_space.shape is not None
    size = env.observation_space.shape[0]
    model = kind("MlpPolicy", env, seed=0, buffer_size=10, policy_kwargs={
        "features_extractor_class": NormalizedFeatures,
        "features_extractor_kwargs": {"mean": [50.0] * size, "scale": [0.01] * size},
    })  # fmt: skip
    seen: list[np.ndarray] = []

    def record(observations: np.ndarray) -> np.ndarray:
        seen.append(observations)
        return np.zeros((1, *env.action_space.shape), env.action_space.dtype)  # type: ignore[misc]

    stuck = StuckSensorsPolicy.of(FunctionPolicy(record), model, 1.0)
    stuck.reset(ONE, [0])
    act(stuck, np.zeros((1, size), np.float32))
    np.testing.assert_allclose(seen[0], np.full((1, size), 50.0), atol=0.1)


def test_sensors_that_cannot_be_stuck_are_named(tmp_path: Path) -> None:
    spec = spec_of(EnvConfig("CartPole-v1"))
    folder = save_policy(trained(PPO, "CartPole-v1"), tmp_path / "p", trained_in="real")
    with pytest.raises(InvalidOptionError, match="normalize=True"):
        make_exploration(StuckSensorsExploration(path=str(folder), share=0.5), spec)


def test_a_policy_of_other_spaces_is_refused(tmp_path: Path) -> None:
    folder = save_policy(trained(PPO, "CartPole-v1"), tmp_path / "p", trained_in="real")
    with pytest.raises(SpaceMismatchError, match="observation_space"):
        load_policy(folder, expect=spec_of(EnvConfig("Pendulum-v1")))


def rewrite(folder: Path, **change: Any) -> None:
    card = json.loads((folder / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps({**card, **change}))


def test_a_missing_or_damaged_policy_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="not a policy folder"):
        load_policy(tmp_path)
    folder = save_policy(trained(PPO, "CartPole-v1"), tmp_path / "p", trained_in="real")
    content = (folder / "policy.zip").read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"no zip at all"):
        (folder / "policy.zip").write_bytes(damaged)
        with pytest.raises(StageError, match=r"policy\.zip cannot be loaded"):
            load_policy(folder)
    (folder / "policy.zip").unlink()
    with pytest.raises(StageError, match=r"policy\.zip cannot be loaded"):
        load_policy(folder)
    rewrite(folder, algorithm="GPT")
    with pytest.raises(InvalidOptionError, match="PPO"):
        load_policy(folder)
    rewrite(folder, format=99)
    with pytest.raises(StageError, match="upgrade"):
        load_policy(folder)
    rewrite(folder, format=1)
    with pytest.raises(StageError, match="train the policy again"):
        load_policy(folder)
    rewrite(folder, format=FORMAT, latent_mode="latents")
    with pytest.raises(StageError, match=r"damaged.*'latents'.*'observation'"):
        load_policy(folder)
    rewrite(folder, latent_mode=None, notes="mine")
    with pytest.raises(StageError, match=r"damaged.*unknown field `notes`"):
        load_policy(folder)
    (folder / "policy.json").write_text("[]")
    with pytest.raises(StageError, match="damaged"):
        load_policy(folder)


class OwnPolicy(SACPolicy):
    """Policy class of a user."""


@pytest.mark.parametrize("policy", [OwnPolicy, ScaledCriticsPolicy])
def test_the_class_of_a_policy_may_extend_one_of_a_library(policy: Any, tmp_path: Path) -> None:
    model = SAC(policy, "Pendulum-v1", policy_kwargs={"net_arch": [8]}, buffer_size=1)
    model.save(tmp_path / "model.zip")
    loaded = load_policy(tmp_path / "model.zip")
    assert isinstance(loaded, SAC) and type(loaded.policy) is policy


def test_a_card_beside_another_policys_zip_is_noticed(tmp_path: Path) -> None:
    cart = save_policy(trained(PPO, "CartPole-v1"), tmp_path / "a", trained_in="real")
    other = save_policy(trained(PPO, "Pendulum-v1"), tmp_path / "b", trained_in="real")
    (cart / "policy.zip").write_bytes((other / "policy.zip").read_bytes())
    with pytest.raises(StageError, match="disagree"):
        load_policy(cart)


def test_saving_never_replaces_what_is_no_policy(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StageError, match="not a policy folder"):
        save_policy(trained(PPO, "CartPole-v1"), tmp_path, trained_in="real")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_normalisation_lives_inside_the_policy(tmp_path: Path) -> None:
    normalize = {"mean": [0.0, 0.0, 4.0], "scale": [1.0, 1.0, 2.0]}
    options = {
        "features_extractor_class": NormalizedFeatures,
        "features_extractor_kwargs": normalize,
    }
    model = trained(PPO, "Pendulum-v1", policy_kwargs=options)
    extractor = load_policy(save_policy(model, tmp_path / "p", trained_in="real")).policy
    features = extractor.extract_features(torch.tensor([[1.0, -1.0, 8.0], [0.0, 0.0, 1e6]]))
    assert features.tolist() == [[1.0, -1.0, 2.0], [0.0, 0.0, 10.0]]
    sac = trained(SAC, "Pendulum-v1", policy_kwargs=options)
    assert isinstance(sac.actor.features_extractor, NormalizedFeatures)


def test_statistics_of_another_space_are_refused() -> None:
    with pytest.raises(SpaceMismatchError, match="1 means and 1 scales, expected 3"):
        NormalizedFeatures(OBSERVATIONS, [0.0], [1.0])
