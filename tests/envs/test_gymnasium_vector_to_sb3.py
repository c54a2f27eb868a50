"""GymnasiumVectorToSB3 does what DummyVecEnv does with the same environments."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from sb3_contrib import MaskablePPO
from stable_baselines3 import DQN, PPO, SAC, HerReplayBuffer
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from world_env.envs import GymnasiumVectorToSB3, WorldModelVectorEnv
from world_env.errors import InvalidActionError, InvalidOptionError, ResetNeededError
from world_env.twin.twin import Twin

N = 3
MODES = [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]
Make = Callable[[], gym.Env[Any, Any]]


class Told(gym.Env[Any, Any]):
    """A walk with random ends that reports values of every kind."""

    metadata = {"render_modes": ["rgb_array"]}
    action_space = gym.spaces.Discrete(3)
    space: gym.spaces.Space[Any] = gym.spaces.Box(-100.0, 100.0, (2,), np.float32)

    def __init__(self, render_mode: str | None = None, goal: bool = False) -> None:
        self.render_mode, self.goal = render_mode, goal
        self.observation_space: gym.spaces.Space[Any] = self.space
        if goal:
            names = ("observation", "achieved_goal", "desired_goal")
            self.observation_space = gym.spaces.Dict({name: self.space for name in names})
        self.buffer = np.zeros(2, np.float32)
        self.tag = "none"

    def shown(self) -> Any:
        if not self.goal:
            return self.buffer.copy()
        return {name: self.buffer + shift for shift, name in enumerate(self.observation_space)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.buffer[:] = self.np_random.uniform(-1, 1, 2)
        self.steps = 0
        if options:
            self.buffer[0] = options["at"]
        return self.shown(), {"begun": True, "at": self.buffer.copy()}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.steps += 1
        self.buffer += (action - 1) * 0.5 + self.np_random.normal(0, 0.1, 2).astype(np.float32)
        info: dict[str, Any] = {
            "count": self.steps,
            "name": "step",
            "parts": {"x": 0.5, "y": self.steps},
        }
        if self.steps % 2:
            info["odd"] = self.buffer.copy()
        terminated = bool(self.np_random.random() < 0.05)
        return self.shown(), float(self.buffer.sum()), terminated, self.steps >= 20, info

    def action_masks(self) -> np.ndarray:
        return np.array([True, self.steps % 2 == 0, True])

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> np.ndarray:
        return -np.abs(achieved - desired).sum(-1)

    def tagged(self, more: str) -> str:
        return self.tag + more

    def render(self) -> Any:
        return np.full((4, 4, 3), self.steps, np.uint8)


class Parts(Told):
    """Its observation is a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gym.spaces.Tuple([self.space, gym.spaces.MultiDiscrete([100])])

    def shown(self) -> Any:
        return self.buffer.copy(), np.array([self.steps])


class Nested(Told):
    """Its observation is a dict in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gym.spaces.Dict(inner=gym.spaces.Dict(x=self.space))

    def shown(self) -> Any:
        return {"inner": {"x": self.buffer.copy()}}


def cartpole() -> gym.Env[Any, Any]:
    return gym.make("CartPole-v1", max_episode_steps=30)


def pendulum() -> gym.Env[Any, Any]:
    return gym.make("Pendulum-v1", max_episode_steps=30)


def dicts() -> gym.Env[Any, Any]:
    return Told(goal=True)


def vectors(kind: type, mode: AutoresetMode, make: Make, n: int = N, **options: Any) -> Any:
    return kind([make] * n, autoreset_mode=mode, **options)


def test_mode_next_step_is_refused_with_the_call_that_works(noisy: Twin) -> None:
    for wrong, call in (
        (gym.make_vec("CartPole-v1", 2), r'"CartPole-v1", num_envs=2, vectorization_mode="sync"'),
        (CartPoleVectorEnv(num_envs=2), "SAME_STEP"),
        (SyncVectorEnv([Told] * 2), 'vectorization_mode="sync".*SAME_STEP'),
        (WorldModelVectorEnv(noisy, 5), 'num_envs=5, autoreset_mode="SAME_STEP"'),
        (cartpole(), "TimeLimit.*expected a gymnasium.vector.VectorEnv"),
    ):
        with pytest.raises(InvalidOptionError, match=call):
            GymnasiumVectorToSB3(wrong)
        wrong.close()
    shown = gym.make_vec(
        "CartPole-v1",
        num_envs=2,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP},
    )
    GymnasiumVectorToSB3(shown).close()


@pytest.mark.parametrize(
    "make", [cartpole, pendulum, Told, dicts, Parts], ids=lambda make: make.__name__
)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("options", [{}, {"copy": False}], ids=["copied", "buffers"])
def test_a_thousand_steps_equal_those_of_dummy_vec_env(
    make: Make, mode: AutoresetMode, options: dict[str, Any]
) -> None:
    theirs = DummyVecEnv([make] * N)
    ours = GymnasiumVectorToSB3(vectors(SyncVectorEnv, mode, make, **options))
    assert_equal_steps(ours, theirs, 1_000)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("options", [{}, {"copy": False}, {"shared_memory": False}], ids=str)
def test_worker_processes_step_equally(mode: AutoresetMode, options: dict[str, Any]) -> None:
    theirs = DummyVecEnv([dicts] * 2)
    ours = GymnasiumVectorToSB3(vectors(AsyncVectorEnv, mode, dicts, 2, **options))
    assert_equal_steps(ours, theirs, 150)


def assert_equal_steps(ours: GymnasiumVectorToSB3, theirs: DummyVecEnv, steps: int) -> None:
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space and ours.num_envs == theirs.num_envs
    for env in (ours, theirs):
        env.seed(7)
        env.action_space.seed(0)
    seen = [ours.reset(), theirs.reset()]
    assert_same(*seen)
    assert_same(ours.reset_infos, theirs.reset_infos)
    ends = 0
    for _ in range(steps):
        actions = np.array([theirs.action_space.sample() for _ in range(ours.num_envs)])
        kept = flat(seen[0])
        mine, reward, done, infos = ours.step(actions)
        # What was returned before does not change: rollout buffers keep it.
        assert_same(kept, flat(seen[0]))
        other, other_reward, other_done, other_infos = theirs.step(actions)
        assert_same(mine, other)
        np.testing.assert_array_equal(reward, other_reward)
        np.testing.assert_array_equal(done, other_done)
        assert reward.dtype == np.float32 and done.dtype == bool
        for row, other_info in enumerate(other_infos):
            if not done[row]:
                # DummyVecEnv writes this key in every step.
                assert other_info.pop("TimeLimit.truncated") is False
        assert_same(infos, other_infos)
        assert_same(ours.reset_infos, theirs.reset_infos)
        reward[:] = np.nan
        seen[0] = mine
        ends += int(done.sum())
    assert ends >= 4
    ours.close()
    theirs.close()


def flat(value: Any) -> list[np.ndarray]:
    parts = value.values() if isinstance(value, dict) else value
    parts = parts if isinstance(value, dict | tuple) else [value]
    return [np.array(part) for part in parts]


def assert_same(one: Any, other: Any) -> None:
    if isinstance(other, dict):
        assert one.keys() == other.keys()
        for key in other:
            assert_same(one[key], other[key])
    elif isinstance(other, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    elif isinstance(other, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other and type(one) is type(other)


def test_the_last_observation_of_nested_dicts_is_the_same_in_both_modes() -> None:
    last: list[Any] = []
    for mode in MODES:
        env = GymnasiumVectorToSB3(vectors(SyncVectorEnv, mode, Nested))
        env.seed(7)
        env.reset()
        told = [info for _ in range(60) for info in env.step(np.ones(N, int))[3]]
        ends = [info for info in told if "terminal_observation" in info]
        last.append([info["terminal_observation"] for info in ends])
    assert len(last[0]) >= 3 * N and last[0][0]["inner"]["x"].shape == (2,)
    assert_same(*last)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_seeds_and_options_hold_for_the_next_reset(mode: AutoresetMode) -> None:
    env = GymnasiumVectorToSB3(vectors(SyncVectorEnv, mode, Told))
    env.seed(3)
    first = env.reset()
    assert not np.array_equal(env.reset(), first)
    env.seed(3)
    np.testing.assert_array_equal(env.reset(), first)
    env._seeds = [4, 4, None]
    again = env.reset()
    np.testing.assert_array_equal(again[0], again[1])
    for options in ({"at": 7.0}, [{"at": 7.0}] * N, [{"at": 7.0} for _ in range(N)]):
        env.set_options(options)
        assert (env.reset()[:, 0] == 7.0).all()
        assert not (env.reset()[:, 0] == 7.0).any()
    env.set_options([{"at": 1.0}, {"at": 2.0}, {}])
    with pytest.raises(InvalidOptionError, match="set_options"):
        env.reset()


def test_attributes_and_methods_of_single_environments() -> None:
    sync = GymnasiumVectorToSB3(
        vectors(SyncVectorEnv, MODES[0], lambda: Monitor(Told("rgb_array")))
    )
    sync.reset()
    sync.set_attr("tag", "a")
    sync.set_attr("tag", "b", indices=[1])
    assert sync.get_attr("tag") == ["a", "b", "a"] and sync.get_attr("tag", [1, 2]) == ["b", "a"]
    assert sync.env_method("tagged", "!", indices=1) == ["b!"]
    assert sync.env_is_wrapped(Monitor) == [True] * N
    assert sync.env_is_wrapped(gym.wrappers.TimeLimit, [0]) == [False]
    assert sync.has_attr("tag") and not sync.has_attr("nothing")
    assert callable(sync.get_attr("tagged")[0])
    assert [image.shape for image in sync.get_images()] == [(4, 4, 3)] * N
    assert sync.render().ndim == 3
    assert "Told" in repr(sync) or "SyncVectorEnv" in repr(sync)
    sync.close(), sync.close()


def test_attributes_and_methods_of_worker_processes() -> None:
    env = GymnasiumVectorToSB3(vectors(AsyncVectorEnv, MODES[0], lambda: Told("rgb_array"), 2))
    env.reset()
    env.set_attr("tag", "a")
    env.set_attr("tag", "b", indices=[1])
    assert env.get_attr("tag") == ["a", "b"]
    assert env.env_method("tagged", "!") == ["a!", "b!"]
    with pytest.raises(InvalidOptionError, match="omit indices"):
        env.env_method("tagged", "!", indices=[0])
    assert len(env.get_images()) == 2 and env.env_is_wrapped(Monitor) == [False] * 2
    env.close()


class OneArray(VectorEnv[Any, Any, Any]):
    """A vector environment of arrays, as those on accelerators are: no single environments, batched final_obs."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
    render_mode = None

    def __init__(self, final: bool = True) -> None:
        self.num_envs, self.final = 4, final
        self.single_observation_space = gym.spaces.Box(0, 99, (1,), np.float32)
        self.single_action_space = gym.spaces.Discrete(2)
        self.gravity = 9.8

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        assert seed is None or isinstance(seed, int)
        self.at = np.arange(4.0, dtype=np.float32)[:, None]
        return self.at, {"unit": "m"}

    def step(self, actions: Any) -> Any:
        self.at += 1
        ended = self.at[:, 0] >= 6
        infos: dict[str, Any] = {"height": self.at[:, 0] * 2}
        if self.final:
            infos |= {"final_obs": self.at.copy(), "_final_obs": ended}
        self.at[ended] = 0
        return self.at, np.ones(4), ended, np.ones(4, bool) & ended, infos

    def pushed(self, force: float) -> float:
        return force


def test_a_vector_environment_without_single_environments() -> None:
    env = GymnasiumVectorToSB3(RecordEpisodeStatistics(OneArray()))
    env.seed(1)
    first = env.reset()
    assert env.reset_infos == [{"unit": "m"}] * 4
    for step in range(1, 7):
        shown, _, dones, infos = env.step(np.zeros(4, int))
        assert (first[:, 0] == range(4)).all()
        for row in range(4):
            assert dones[row] == ("terminal_observation" in infos[row])
            if dones[row] and step <= 6 - row:
                assert infos[row]["terminal_observation"] == 6 and shown[row] == 0
                # A termination at the time limit is a termination.
                assert infos[row]["TimeLimit.truncated"] is False
                assert infos[row]["episode"]["l"] == 6 - row == infos[row]["episode"]["r"]
            elif not dones[row]:
                assert infos[row].keys() == {"height"}
    assert env.get_attr("gravity") == [9.8] * 4
    env.set_attr("gravity", 1.6)
    assert env.get_attr("gravity", [2]) == [1.6] and env.env_method("pushed", 2.0) == [2.0] * 4
    assert env.get_attr("action_space")[0] == env.action_space
    with pytest.raises(InvalidOptionError, match="share"):
        env.set_attr("gravity", 1.0, indices=[0])
    broken = GymnasiumVectorToSB3(OneArray(final=False))
    broken.reset()
    with pytest.raises(InvalidOptionError, match="final_obs"):
        for _ in range(6):
            broken.step(np.zeros(4, int))


def test_misuse_is_named() -> None:
    env = GymnasiumVectorToSB3(vectors(SyncVectorEnv, MODES[0], Told))
    env.reset()
    with pytest.raises(ResetNeededError, match="step_async"):
        env.step_wait()
    with pytest.raises(InvalidActionError, match=r"\(3, ...\)"):
        env.step(np.zeros(2, int))
    with pytest.raises(InvalidActionError, match="float64"):
        env.step(np.zeros(3))
    env.step([0, 1, 2])
    with pytest.raises(AttributeError):
        env.get_attr("nothing")


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_ppo_learns_as_in_dummy_vec_env(mode: AutoresetMode) -> None:
    """Same seeds, same weights afterwards: rewards, dones and bootstraps at time limits are the same."""
    weights = []
    for env in (
        DummyVecEnv([cartpole] * N),
        GymnasiumVectorToSB3(vectors(SyncVectorEnv, mode, cartpole)),
    ):
        wrapped = VecNormalize(VecFrameStack(VecMonitor(env), 2))
        model = PPO(
            "MlpPolicy", wrapped, n_steps=64, batch_size=64, n_epochs=2, seed=0, device="cpu"
        )
        model.learn(N * 128)
        assert model.ep_info_buffer and model.ep_info_buffer[0]["l"] <= 30
        weights.append(model.policy.state_dict())
    for name, value in weights[0].items():
        np.testing.assert_array_equal(value.numpy(), weights[1][name].numpy())


def test_other_algorithms_learn_and_models_are_saved(tmp_path: Any) -> None:
    env = GymnasiumVectorToSB3(vectors(SyncVectorEnv, MODES[0], pendulum))
    sac = SAC("MlpPolicy", env, learning_starts=30, device="cpu", buffer_size=500, batch_size=8)
    sac.learn(120)
    assert sac.replay_buffer.timeouts.any() and sac.replay_buffer.dones.any()
    sac.save(tmp_path / "sac")
    SAC.load(tmp_path / "sac", env=env, device="cpu").learn(30)
    told = GymnasiumVectorToSB3(vectors(SyncVectorEnv, MODES[1], Told))
    DQN("MlpPolicy", told, learning_starts=30, device="cpu", buffer_size=500).learn(60)
    MaskablePPO("MlpPolicy", told, n_steps=16, batch_size=16, n_epochs=1, device="cpu").learn(48)
    normalized = VecNormalize(told)
    normalized.reset(), normalized.step(np.zeros(N, int))
    normalized.save(str(tmp_path / "scales"))
    assert VecNormalize.load(str(tmp_path / "scales"), told).ret_rms.count > 1


def test_hindsight_replay_calls_the_environments_reward() -> None:
    env = GymnasiumVectorToSB3(
        vectors(
            SyncVectorEnv,
            MODES[0],
            lambda: gym.wrappers.TransformAction(
                Told(goal=True),
                lambda a: np.int64(a[0] > 0),
                gym.spaces.Box(-1, 1, (1,), np.float32),
            ),
        )
    )
    model = SAC(
        "MultiInputPolicy",
        env,
        replay_buffer_class=HerReplayBuffer,
        learning_starts=66,
        batch_size=8,
        device="cpu",
    )
    model.learn(90)
    assert model._n_updates > 0


def test_the_room_imports_without_stable_baselines3() -> None:
    code = (
        "import sys; sys.modules['stable_baselines3'] = None\n"
        "import world_env.envs\nfrom world_env.errors import MissingExtraError\n"
        "try:\n    world_env.envs.GymnasiumVectorToSB3\n"
        "except MissingExtraError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "world-env[train]"' in done.stdout
