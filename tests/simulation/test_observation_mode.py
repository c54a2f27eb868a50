"""Observation modes: the same worlds, seen as pixels, as latents, or as both; and reality seen through a twin."""

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from oracle import CartPoleOracle, oracle_twin

from world_env import WorldModelEnv, WorldModelVectorEnv
from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
from world_env.errors import (
    InvalidActionError,
    InvalidOptionError,
    ResetNeededError,
    SpaceMismatchError,
)
from world_env.models.rssm.model import RssmConfig, RssmWorldModel
from world_env.simulation.simulator import Simulator, SimulatorConfig
from world_env.spec import WorldSpec
from world_env.twin.twin import Twin
from world_env.wrappers.latent_observation import LatentObservation

SMALL = RssmConfig(
    deter=12, groups=2, classes=3, hidden=12, depth=2, members=2, window=4, context=2
)
FEATURES = 12 + 2 * 3


@pytest.fixture
def pixels() -> Twin:
    spec = WorldSpec(spaces.Box(0, 255, (16, 16), np.uint8), spaces.Box(-1.0, 1.0, (2,)), horizon=4)
    return Twin.untrained(spec, "rssm", SMALL)


def rolled(twin: Twin, mode: str, steps: int = 6) -> list[tuple]:
    env = WorldModelVectorEnv(twin, 3, observation_mode=mode, autoreset_mode="SAME_STEP")
    seen = [(env.reset(seed=5)[0],)]
    rng = np.random.default_rng(0)
    for _ in range(steps):
        seen.append(env.step(rng.uniform(-1, 1, (3, 2)).astype(np.float32))[:4])
    return seen


def test_the_mode_changes_what_is_seen_and_nothing_else(pixels: Twin) -> None:
    plain, latent, both = (rolled(pixels, mode) for mode in ("observation", "latent", "both"))
    for one, two, three in zip(plain, latent, both, strict=True):
        assert one[0].shape == (3, 16, 16) and two[0].shape == (3, FEATURES)
        assert np.array_equal(one[0], three[0]["observation"])
        assert np.array_equal(two[0], three[0]["latent"])
        for a, b, c in zip(one[1:], two[1:], three[1:], strict=True):
            assert np.array_equal(a, b) and np.array_equal(a, c)
    assert any((step[2] | step[3]).any() for step in plain[1:])  # restarts were among them


def test_latents_are_features_and_need_no_decoding(
    pixels: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator = Simulator(pixels, 2, seed=0, config=SimulatorConfig(observation_mode="latent"))

    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(RssmWorldModel, "decode", refuse)
    simulator.reset()
    seen = simulator.step(np.zeros((2, 2), np.float32)).observation
    state = simulator.snapshot().state
    assert np.array_equal(seen, pixels.model.features(state).numpy())
    with pytest.raises(AssertionError, match="decoded"):
        simulator.decoded_observation()
    monkeypatch.undo()
    assert simulator.decoded_observation().shape == (2, 16, 16)


def test_latents_of_no_numbers_end_the_episode(
    pixels: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator = Simulator(pixels, 2, seed=0, config=SimulatorConfig(observation_mode="latent"))
    before = simulator.reset()
    step = RssmWorldModel.step

    def spoiled(self: RssmWorldModel, *args: Any, **kwargs: Any) -> object:
        state, prediction = step(self, *args, **kwargs)
        state["deter"][1] = torch.nan
        return state, prediction

    monkeypatch.setattr(RssmWorldModel, "step", spoiled)
    result = simulator.step(np.zeros((2, 2), np.float32))
    assert result.truncated.tolist() == [False, True]
    assert np.array_equal(result.observation[1], before[1])


def test_known_functions_and_bounds_see_what_the_agent_does_not() -> None:
    twin = oracle_twin("CartPole-v1")
    asked = []

    def ends(before: np.ndarray, action: np.ndarray, after: np.ndarray) -> np.ndarray:
        asked.append((before.shape, after.shape))
        return np.abs(after[:, 2]) > 0.01

    env = WorldModelEnv(twin, observation_mode="latent", termination_fn=ends)
    env.reset(seed=0)
    while not env.step(1)[2]:
        pass
    assert set(asked) == {((1, 4), (1, 4))}


@pytest.mark.parametrize("mode", ["latent", "both"])
def test_every_shell_says_what_it_shows(pixels: Twin, mode: str) -> None:
    one = WorldModelEnv(pixels, observation_mode=mode)
    check_env(one, skip_render_check=True)
    many = WorldModelVectorEnv(pixels, 3, observation_mode=mode)
    assert many.observation_space.contains(many.reset(seed=0)[0])
    sb3 = WorldModelSB3VecEnv(pixels, 3, observation_mode=mode)
    assert sb3.observation_space == one.observation_space
    sb3.reset()
    seen, _, _, _ = sb3.step(np.zeros((3, 2), np.float32))
    assert (seen["latent"] if mode == "both" else seen).shape == (3, FEATURES)


def test_what_is_rendered_is_the_picture(pixels: Twin) -> None:
    frames = []
    for mode in ("observation", "latent"):
        env = WorldModelEnv(pixels, observation_mode=mode, render_mode="rgb_array")
        env.reset(seed=0)
        env.step(np.zeros(2, np.float32))
        frames.append(env.render())
        env.close()
    assert np.array_equal(*frames)


def test_other_modes_and_a_taken_key_are_refused(pixels: Twin) -> None:
    with pytest.raises(InvalidOptionError, match=r"observation_mode is 'both_'.*'latent', 'both'"):
        WorldModelEnv(pixels, observation_mode="both_")
    taken = spaces.Dict({"latent": spaces.Box(-1.0, 1.0, (2,))})
    twin = Twin.untrained(dataclasses.replace(pixels.spec, observation_space=taken), "rssm", SMALL)
    with pytest.raises(InvalidOptionError, match="has already"):
        WorldModelEnv(twin, observation_mode="both")
    WorldModelEnv(twin, observation_mode="latent")


def test_reality_seen_through_an_exact_twin_is_that_twin() -> None:
    twin = oracle_twin("CartPole-v1")
    assert isinstance(twin.model, CartPoleOracle)
    real = LatentObservation(gym.make("CartPole-v1"), twin)
    learned = WorldModelEnv(twin, observation_mode="latent")
    assert real.observation_space == learned.observation_space
    first, _ = real.reset(seed=3)
    start = real.env.unwrapped.state
    shown, _ = learned.reset(options={"observation": np.asarray(start, np.float32)})
    np.testing.assert_allclose(first, shown, rtol=1e-6)
    for step in range(12):
        mine, theirs = real.step(step % 2), learned.step(step % 2)
        np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-4, atol=1e-6)
        assert mine[1:4] == theirs[1:4]


def test_the_real_past_is_filtered(pixels: Twin) -> None:
    class Noise(gym.Env):
        observation_space = pixels.spec.observation_space
        action_space = pixels.spec.action_space

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.np_random.integers(0, 256, (16, 16)).astype(np.uint8), {}

        def step(self, action):
            return self.reset()[0], 0.0, False, False, {}

    env = LatentObservation(Noise(), pixels, "both")
    seen, _ = env.reset(seed=1)
    assert env.observation_space.contains(seen)
    first = seen["observation"].copy()
    after = env.step(np.zeros(2, np.float32))[0]["latent"]
    again, _ = env.reset(seed=1)
    assert np.array_equal(again["observation"], first)
    assert np.array_equal(again["latent"], seen["latent"])
    assert np.array_equal(env.step(np.zeros(2, np.float32))[0]["latent"], after)
    # Another action, or another episode of the same seed, gives another state.
    env.reset(seed=1)
    assert not np.array_equal(env.step(np.ones(2, np.float32))[0]["latent"], after)
    assert env.reset()[0]["latent"].shape == (FEATURES,)


def test_an_environment_that_changes_the_action_it_is_given_changes_no_latent(pixels: Twin) -> None:
    class Still(gym.Env):
        observation_space = pixels.spec.observation_space
        action_space = pixels.spec.action_space

        def __init__(self, greedy: bool) -> None:
            self.greedy = greedy

        def reset(self, *, seed=None, options=None):
            return np.zeros((16, 16), np.uint8), {}

        def step(self, action):
            if self.greedy:
                action *= 0.0
            return self.reset()[0], 0.0, False, False, {}

    seen = []
    for greedy in (False, True):
        real = LatentObservation(Still(greedy), pixels)
        real.reset(seed=2**63 + 3)
        seen.append([real.step(np.ones(2, np.float32))[0] for _ in range(3)])
    np.testing.assert_array_equal(*seen)


def test_an_environment_that_the_twin_is_not_of_is_refused(pixels: Twin) -> None:
    with pytest.raises(SpaceMismatchError, match="that the twin was made from"):
        LatentObservation(gym.make("CartPole-v1"), pixels)
    twin = oracle_twin("CartPole-v1")
    with pytest.raises(InvalidOptionError, match="would change nothing"):
        LatentObservation(gym.make("CartPole-v1"), twin, "observation")
    env = LatentObservation(gym.make("CartPole-v1"), twin)
    with pytest.raises(ResetNeededError):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(InvalidActionError):
        env.step(7)
