"""Wrappers of Gymnasium and Stable-Baselines3 around twins: episodes end as without the wrapper."""

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import vector as vector_wrappers
from oracle import oracle_twin
from stable_baselines3.common.env_checker import check_env as check_env_sb3
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
)

from world_env.envs.env import WorldModelEnv
from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
from world_env.envs.vector_env import WorldModelVectorEnv
from world_env.simulation.termination import EpisodeEnd
from world_env.spec import WorldSpec
from world_env.twin.twin import Twin

N, STEPS = 3, 60
HAS_VIDEO = importlib.util.find_spec("moviepy") is not None


@pytest.fixture
def pendulum() -> Twin:
    return oracle_twin("Pendulum-v1", noise=0.01, horizon=12)


Wrap = Callable[[Any], Any]
SINGLE: dict[str, Wrap] = {
    "RecordEpisodeStatistics": wrappers.RecordEpisodeStatistics,
    "TimeLimit": lambda env: wrappers.TimeLimit(env, 100),
    "FrameStackObservation": lambda env: wrappers.FrameStackObservation(env, 3),
    "DelayObservation": lambda env: wrappers.DelayObservation(env, 2),
    "TimeAwareObservation": lambda env: wrappers.TimeAwareObservation(wrappers.TimeLimit(env, 100)),
    "NormalizeObservation": wrappers.NormalizeObservation,
    "NormalizeReward": wrappers.NormalizeReward,
    "FlattenObservation": wrappers.FlattenObservation,
    "DtypeObservation": lambda env: wrappers.DtypeObservation(env, np.float64),
    "TransformReward": lambda env: wrappers.TransformReward(env, lambda reward: 2 * reward),
    "ClipReward": lambda env: wrappers.ClipReward(env, -1, 1),
    "StickyAction": lambda env: wrappers.StickyAction(env, 0.0),
    "OrderEnforcing": wrappers.OrderEnforcing,
    "PassiveEnvChecker": wrappers.PassiveEnvChecker,
    "AddRenderObservation": wrappers.AddRenderObservation,
    "RenderCollection": wrappers.RenderCollection,
    "Monitor": Monitor,
}
WITH_BOX_ACTIONS: dict[str, Wrap] = {
    "RescaleAction": lambda env: wrappers.RescaleAction(env, np.float32(-2), np.float32(2)),
    "ClipAction": wrappers.ClipAction,
}
if HAS_VIDEO:
    SINGLE["RecordVideo"] = lambda env: wrappers.RecordVideo(env, "videos")


def episodes(env: gym.Env[Any, Any], actions: list[Any], count: int = 2) -> list[tuple[int, int]]:
    """Play `count` episodes with these actions; return the step and the reason of each end."""
    ends: list[tuple[int, int]] = []
    shown, info = env.reset(seed=3)
    assert env.observation_space.contains(shown)
    for step, action in enumerate(actions):
        shown, reward, terminated, truncated, info = env.step(action)
        assert env.observation_space.contains(shown) and np.isfinite(reward)
        expected = EpisodeEnd.TERMINATED if terminated else EpisodeEnd.HORIZON
        assert info["end"] == (expected if terminated or truncated else EpisodeEnd.RUNNING)
        if terminated or truncated:
            ends.append((step, info["end"]))
            if len(ends) == count:
                return ends
            env.reset()
    raise AssertionError(f"{count} episodes take more than {len(actions)} steps")


@pytest.mark.filterwarnings("ignore:.*Overwriting existing videos:UserWarning")
@pytest.mark.parametrize("name", SINGLE)
def test_single_environments(
    noisy: Twin, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    actions = [int(action) for action in np.random.default_rng(1).integers(0, 2, STEPS)]
    plain = WorldModelEnv(noisy, render_mode="rgb_array")
    env = SINGLE[name](WorldModelEnv(noisy, render_mode="rgb_array"))
    assert episodes(env, actions) == episodes(plain, actions)
    assert env.unwrapped.twin.model is noisy.model
    env.close()
    if name == "RecordVideo":
        assert list(tmp_path.glob("videos/*.mp4"))


@pytest.mark.parametrize("name", WITH_BOX_ACTIONS)
def test_single_environments_with_box_actions(pendulum: Twin, name: str) -> None:
    actions = list(np.random.default_rng(1).uniform(-2, 2, (STEPS, 1)).astype(np.float32))
    env = WITH_BOX_ACTIONS[name](WorldModelEnv(pendulum))
    assert episodes(env, actions) == episodes(WorldModelEnv(pendulum), actions)
    assert [end for _, end in episodes(env, actions)] == [EpisodeEnd.HORIZON] * 2


def test_autoreset_starts_the_next_episode_by_itself(noisy: Twin) -> None:
    env, plain = wrappers.Autoreset(WorldModelEnv(noisy)), WorldModelEnv(noisy)
    env.reset(seed=0), plain.reset(seed=0)
    ended, ends = False, 0
    for _ in range(STEPS):
        shown, reward, terminated, truncated, _ = env.step(1)
        if ended:
            np.testing.assert_array_equal(shown, plain.reset()[0])
            assert reward == 0 and not terminated and not truncated
        else:
            after, _, *over, _ = plain.step(1)
            np.testing.assert_array_equal(shown, after)
            assert [terminated, truncated] == over
        ended = bool(terminated or truncated)
        ends += ended
    assert ends >= 2


VECTOR: dict[str, Wrap] = {
    "RecordEpisodeStatistics": vector_wrappers.RecordEpisodeStatistics,
    "DictInfoToList": vector_wrappers.DictInfoToList,
    "NormalizeObservation": vector_wrappers.NormalizeObservation,
    "NormalizeReward": vector_wrappers.NormalizeReward,
    "FlattenObservation": vector_wrappers.FlattenObservation,
    "DtypeObservation": lambda env: vector_wrappers.DtypeObservation(env, np.float64),
    "TransformReward": lambda env: vector_wrappers.TransformReward(env, lambda reward: 2 * reward),
    "ClipReward": lambda env: vector_wrappers.ClipReward(env, -1, 1),
}


# Modes that Gymnasium's own wrappers refuse.
REFUSED = {
    *[(name, "same_step") for name in VECTOR if name.endswith("Observation")],
    ("NormalizeObservation", "disabled"),
}


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        (name, mode)
        for name in VECTOR
        for mode in ("next_step", "same_step", "disabled")
        if (name, mode) not in REFUSED
    ],
)
def test_vector_environments(noisy: Twin, name: str, mode: str) -> None:
    plain = WorldModelVectorEnv(noisy, N, autoreset_mode=mode)
    env = VECTOR[name](WorldModelVectorEnv(noisy, N, autoreset_mode=mode))
    actions = np.random.default_rng(1).integers(0, 2, (STEPS, N))
    ends = compare_vectors(env, plain, actions, mode, listed=name == "DictInfoToList")
    assert (ends >= 2).all()


def compare_vectors(
    env: Any, plain: WorldModelVectorEnv, actions: Any, mode: str, listed: bool = False
) -> np.ndarray:
    shown, _ = env.reset(seed=3)
    plain.reset(seed=3)
    ends = np.zeros(N, int)
    # Older versions of Gymnasium keep the bounds of what they normalise.
    normalizes = isinstance(env, gym.wrappers.vector.NormalizeObservation)
    for action in actions:
        assert normalizes or env.observation_space.contains(shown)
        shown, rewards, terminated, truncated, infos = env.step(action)
        _, _, expected_terminated, expected_truncated, expected = plain.step(action)
        np.testing.assert_array_equal(terminated, expected_terminated)
        np.testing.assert_array_equal(truncated, expected_truncated)
        assert rewards.shape == (N,) and np.isfinite(rewards).all()
        over = terminated | truncated
        last = expected["final_info"] if mode == "same_step" and over.any() else expected
        reasons = np.where(terminated, EpisodeEnd.TERMINATED, EpisodeEnd.HORIZON)
        np.testing.assert_array_equal(last["end"][over], reasons[over])
        if not listed and "episode" in infos:
            assert (infos["episode"]["l"][over] > 0).all()
        ends += over
        if mode == "disabled" and over.any():
            # A mask for each: Gymnasium's wrappers take it out of the options.
            shown, _ = env.reset(options={"reset_mask": over.copy()})
            plain.reset(options={"reset_mask": over.copy()})
    return ends


@pytest.mark.parametrize("name", ["ClipAction", "RescaleAction"])
def test_vector_environments_with_box_actions(pendulum: Twin, name: str) -> None:
    made = [WorldModelVectorEnv(pendulum, N) for _ in range(2)]
    wrap: Any = getattr(vector_wrappers, name)
    env = wrap(made[0]) if name == "ClipAction" else wrap(made[0], np.float32(-2), np.float32(2))
    actions = np.random.default_rng(1).uniform(-2, 2, (STEPS, N, 1)).astype(np.float32)
    assert (compare_vectors(env, made[1], actions, "next_step") >= 2).all()


def images(twin: Twin) -> WorldModelSB3VecEnv:
    return WorldModelSB3VecEnv(twin, N, seed=3, render_mode="rgb_array")


VEC: dict[str, Wrap] = {
    "VecMonitor": VecMonitor,
    "VecNormalize": VecNormalize,
    "VecFrameStack": lambda env: VecFrameStack(env, 3),
    "VecCheckNan": lambda env: VecCheckNan(env, raise_exception=True),
}
if HAS_VIDEO:
    VEC["VecVideoRecorder"] = lambda env: VecVideoRecorder(
        env, "videos", lambda step: step == 0, video_length=20
    )


@pytest.mark.parametrize("name", VEC)
def test_stable_baselines3_environments(
    noisy: Twin, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    env, plain = VEC[name](images(noisy)), images(noisy)
    shown, _ = env.reset(), plain.reset()
    ends = np.zeros(N, int)
    for action in np.random.default_rng(1).integers(0, 2, (STEPS, N)):
        # Normalised and stacked values may leave the space of Stable-Baselines3's wrappers.
        assert shown.shape == (N, *env.observation_space.shape)
        shown, rewards, dones, infos = env.step(action)
        _, _, expected, expected_infos = plain.step(action)
        np.testing.assert_array_equal(dones, expected)
        assert rewards.shape == (N,)
        for row in np.flatnonzero(dones):
            for key in ("end", "TimeLimit.truncated"):
                assert infos[row][key] == expected_infos[row][key]
            terminal = infos[row]["terminal_observation"]
            assert terminal.shape == env.observation_space.shape
            # VecFrameStack stacks it too; its last frame is the last observation.
            if name != "VecNormalize":
                last = expected_infos[row]["terminal_observation"]
                np.testing.assert_array_equal(terminal[-len(last) :], last)
        ends += dones
    assert (ends >= 2).all()
    env.close()


def test_images_are_transposed() -> None:
    space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    twin = Twin.untrained(WorldSpec(space, gym.spaces.Discrete(2), horizon=3), "rssm")
    env = VecTransposeImage(WorldModelSB3VecEnv(twin, 2, seed=0))
    assert env.reset().shape == (2, *env.observation_space.shape) == (2, 3, 16, 16)
    ended = []
    for _ in range(6):
        *_, dones, infos = env.step(np.zeros(2, int))
        ended.append(bool(dones.all()))
        if dones.all():
            assert infos[0]["terminal_observation"].shape == env.observation_space.shape
            assert infos[0]["end"] == EpisodeEnd.HORIZON
    assert ended == [False, False, True] * 2


@pytest.mark.filterwarnings("ignore:.*For Box action spaces, we recommend:UserWarning")
@pytest.mark.parametrize("name", ["cartpole", "pendulum", "acrobot", "half-cheetah"])
@pytest.mark.usefixtures("bundled")
def test_bundled_twins_pass_both_checkers(name: str) -> None:
    env = WorldModelEnv(name)
    check_env(env, skip_render_check=True)
    check_env_sb3(env, skip_render_check=True)


@pytest.mark.usefixtures("bundled")
def test_wrapped_environments_are_made_from_their_spec() -> None:
    env = wrappers.TimeLimit(wrappers.FlattenObservation(gym.make("WorldModel-v0")), 30)
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    other = copy.deepcopy(env)
    for made in (again, other):
        np.testing.assert_array_equal(made.reset(seed=2)[0], env.reset(seed=2)[0])
        np.testing.assert_array_equal(made.step(1)[0], env.step(1)[0])
