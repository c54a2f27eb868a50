"""WorldModelSB3VecEnv under Stable-Baselines3: its contract, and bootstrapping exactly at truncations."""

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from oracle import oracle_twin
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
from world_env.errors import InvalidOptionError, ResetNeededError
from world_env.simulation.termination import EpisodeEnd
from world_env.twin.twin import Twin

ROWS = 4


def test_rewards_and_dones(noisy: Twin) -> None:
    env = WorldModelSB3VecEnv(noisy, ROWS, seed=0)
    observation = env.reset()
    kinds = set()
    for _ in range(60):
        given = observation.copy()
        after, rewards, dones, infos = env.step(np.random.default_rng(1).integers(0, 2, ROWS))
        np.testing.assert_array_equal(given, observation)
        assert rewards.dtype == np.float32 and dones.dtype == bool and len(infos) == ROWS
        rewards += 100.0
        for row in range(ROWS):
            assert ("terminal_observation" in infos[row]) == dones[row]
            assert ("TimeLimit.truncated" in infos[row]) == dones[row]
            if dones[row]:
                kinds.add(infos[row]["end"])
                assert env.observation_space.contains(infos[row]["terminal_observation"])
                assert not np.array_equal(infos[row]["terminal_observation"], after[row])
            else:
                assert infos[row] == {}
        observation = after
    assert rewards.max() < 102
    assert kinds <= {EpisodeEnd.TERMINATED, EpisodeEnd.HORIZON} and kinds


def test_seeds_and_options(noisy: Twin) -> None:
    first, second = WorldModelSB3VecEnv(noisy, ROWS, seed=3), WorldModelSB3VecEnv(noisy, ROWS)
    second.seed(3)
    start = first.reset()
    np.testing.assert_array_equal(start, second.reset())
    # A seed is used once: the next reset goes on.
    assert not np.array_equal(first.reset(), start)
    wanted = np.full(4, 0.02, np.float32)
    first.set_options({"observation": wanted})
    np.testing.assert_array_equal(first.reset(), np.tile(wanted, (ROWS, 1)))
    assert not np.array_equal(first.reset()[0], wanted)
    for options in ({"snapshot": 1}, [1] * ROWS, ["observation"] * ROWS):
        first.set_options(options)
        with pytest.raises(InvalidOptionError, match="restore"):
            first.reset()


def test_misuse_is_named(noisy: Twin) -> None:
    env = WorldModelSB3VecEnv(noisy, ROWS)
    with pytest.raises(ResetNeededError):
        env.step(np.zeros(ROWS, int))
    with pytest.raises(ResetNeededError, match="step_async"):
        env.step_wait()
    with pytest.raises(InvalidOptionError, match="share"):
        env.set_attr("note", 1, indices=[0])
    with pytest.raises(InvalidOptionError, match="render_mode"):
        WorldModelSB3VecEnv(noisy, render_mode="human")
    env.close()
    env.close()


def test_attributes_and_methods(noisy: Twin) -> None:
    env = WorldModelSB3VecEnv(noisy, ROWS, render_mode="rgb_array", uncertainty=True)
    env.reset()
    assert env.get_attr("twin", indices=[0, 2]) == [noisy] * 2
    env.set_attr("note", 3)
    assert env.get_attr("note") == [3] * ROWS and env.has_attr("note")
    assert not env.has_attr("nothing") and env.env_is_wrapped(object) == [False] * ROWS
    assert len(env.env_method("snapshot", indices=[1])[0]) == ROWS
    assert all("uncertainty" in info for info in env.step(np.zeros(ROWS, int))[3])
    assert env.render().ndim == 3 and len(env.get_images()) == ROWS
    env.close()


class Spy:
    """Counts what PPO asks the value network for beyond the rollout itself: its bootstraps."""

    def __init__(self, model: PPO) -> None:
        self.seen: list[np.ndarray] = []
        inner = model.policy.predict_values

        def predict_values(observation: torch.Tensor) -> torch.Tensor:
            if len(observation) == 1:
                self.seen.append(observation.numpy().copy()[0])
            return inner(observation)

        model.policy.predict_values = predict_values


class Record(VecMonitor):
    """Remembers the last observation of each episode by how it ended."""

    def __init__(self, env: WorldModelSB3VecEnv) -> None:
        super().__init__(env)
        self.truncated: list[np.ndarray] = []
        self.terminated: list[np.ndarray] = []

    def step_wait(self) -> tuple[Any, ...]:
        observation, rewards, dones, infos = super().step_wait()
        for row in np.flatnonzero(dones):
            kept = self.truncated if infos[row]["TimeLimit.truncated"] else self.terminated
            kept.append(infos[row]["terminal_observation"])
        return observation, rewards, dones, infos


def test_ppo_bootstraps_exactly_at_truncations() -> None:
    twin = oracle_twin("CartPole-v1", horizon=15)
    env = Record(WorldModelSB3VecEnv(twin, ROWS, seed=0))
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=1, seed=0, device="cpu")
    spy = Spy(model)
    model.learn(256)
    assert len(env.truncated) > 5 and len(env.terminated) > 5
    assert len(spy.seen) == len(env.truncated)
    np.testing.assert_allclose(np.array(spy.seen), np.array(env.truncated), rtol=1e-6)


def test_ppo_under_the_usual_wrappers() -> None:
    twin = oracle_twin("Pendulum-v1", horizon=20)
    env = VecNormalize(VecMonitor(WorldModelSB3VecEnv(twin, ROWS, seed=0)), norm_obs=False)
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=64, n_epochs=1, device="cpu")
    model.learn(256)
    assert len(model.ep_info_buffer) == 256 // 20 // ROWS * ROWS
    assert all(episode["l"] == 20 for episode in model.ep_info_buffer)


def test_off_policy_algorithms() -> None:
    pendulum = VecMonitor(WorldModelSB3VecEnv(oracle_twin("Pendulum-v1", horizon=20), ROWS))
    sac = SAC("MlpPolicy", pendulum, learning_starts=40, device="cpu", buffer_size=500)
    sac.learn(80)
    assert sac.replay_buffer.timeouts.any() and sac.replay_buffer.dones.any()
    cartpole = VecMonitor(WorldModelSB3VecEnv(oracle_twin("CartPole-v1"), ROWS))
    DQN("MlpPolicy", cartpole, learning_starts=40, device="cpu", buffer_size=500).learn(80)


@pytest.mark.usefixtures("bundled")
def test_sac_lives_in_64_bundled_worlds() -> None:
    env = VecMonitor(WorldModelSB3VecEnv("pendulum", 64, seed=0))
    sac = SAC("MlpPolicy", env, learning_starts=128, batch_size=32, device="cpu", buffer_size=1_000)
    before = [value.clone() for value in sac.actor.parameters()]
    sac.learn(64 * 5)
    assert sac.num_timesteps == 64 * 5 and sac._n_updates > 0
    assert any(not torch.equal(*pair) for pair in zip(before, sac.actor.parameters(), strict=True))
    kept = sac.replay_buffer
    assert kept.n_envs == 64 and np.isfinite(kept.rewards[: kept.pos]).all()
    assert (kept.rewards[: kept.pos] < 0).any()


def test_a_policy_moves_to_the_real_environment(tmp_path: Any) -> None:
    import gymnasium as gym

    env = VecMonitor(WorldModelSB3VecEnv(oracle_twin("CartPole-v1"), ROWS))
    PPO("MlpPolicy", env, n_steps=16, batch_size=64, n_epochs=1, device="cpu").save(
        tmp_path / "policy"
    )
    real = gym.make("CartPole-v1")
    model = PPO.load(tmp_path / "policy", env=real, device="cpu")
    assert real.action_space.contains(model.predict(real.reset(seed=0)[0])[0])
    real.close()


def test_cuts_are_what_the_rule_says(noisy: Twin) -> None:
    twin = dataclasses.replace(noisy, uncertainty_threshold=0.0)
    for rule, truncated in (("truncate", True), ("terminate", False)):
        env = WorldModelSB3VecEnv(twin, ROWS, on_uncertain=rule)
        env.reset()
        _, _, dones, infos = env.step(np.zeros(ROWS, int))
        assert dones.all()
        assert all(info["TimeLimit.truncated"] is truncated for info in infos)
        assert all(info["end"] == EpisodeEnd.UNCERTAINTY for info in infos)


def test_without_the_extra_the_pip_line_is_named() -> None:
    code = (
        "import sys; sys.modules['stable_baselines3'] = None\n"
        "import world_env\n"
        "from world_env.errors import MissingExtraError\n"
        "try:\n    world_env.WorldModelSB3VecEnv\n"
        "except MissingExtraError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "world-env[train]"' in done.stdout


def test_what_is_written_into_one_rows_info_stays_in_that_row() -> None:
    env = WorldModelSB3VecEnv(oracle_twin("CartPole-v1", horizon=3), 4, seed=0)
    env.reset()
    for step in range(7):
        _, _, dones, infos = env.step(np.zeros(4, int))
        infos[2]["mine"] = step
        assert all("mine" not in infos[row] for row in (0, 1, 3))
        assert dones.all() == ("end" in infos[0])
        if dones.all():
            # An end's info belongs to its step alone.
            assert infos[0]["end"] and infos[0] is not env.step(np.zeros(4, int))[3][0]


def test_a_rule_of_uncertainty_tells_it_at_ends_only() -> None:
    twin = oracle_twin("CartPole-v1", noise=0.01, horizon=3)
    rule = WorldModelSB3VecEnv(twin, 2, on_uncertain="truncate", uncertainty_threshold=1e9)
    rule.reset()
    told = [[set(info) for info in rule.step(np.zeros(2, int))[3]] for _ in range(3)]
    assert told[0] == told[1] == [set(), set()]
    assert all("uncertainty" in names for names in told[2])
