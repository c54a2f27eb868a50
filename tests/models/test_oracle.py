"""An exact twin, through all three shells, is the real environment step by step."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from world_env.envs.env import WorldModelEnv
from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
from world_env.envs.vector_env import WorldModelVectorEnv
from world_env.twin.twin import Twin

STEPS = 220


def place(env: gym.Env, observation: np.ndarray) -> None:
    """Put the real simulator where an observation is."""
    env.reset()
    exact = observation.astype(np.float64)
    if len(exact) == 3:
        exact = np.array([np.arctan2(exact[1], exact[0]), exact[2]])
    env.unwrapped.state = exact


def batches(env: gym.Env, rows: int) -> list[np.ndarray]:
    """STEPS batches of actions; Box values that float32 scales exactly, because rounding grows in chaos."""
    env.action_space.seed(3)
    batch = [[env.action_space.sample() for _ in range(rows)] for _ in range(STEPS)]
    actions = np.array(batch)
    return list(np.round(actions * 64) / 64 if actions.dtype == np.float32 else actions)


def close(learned: np.ndarray, real: np.ndarray) -> None:
    assert learned.dtype == real.dtype
    np.testing.assert_allclose(learned, real, atol=1e-5, rtol=1e-5)


def test_one_row(exact: Twin, real_id: str) -> None:
    learned, real = WorldModelEnv(exact), gym.make(real_id)
    observation, _ = learned.reset(seed=0)
    place(real, observation)
    ends = 0
    for (action,) in batches(real, 1):
        shown, reward, terminated, truncated, _ = learned.step(action)
        real_shown, real_reward, real_terminated, real_truncated, _ = real.step(action)
        close(shown, real_shown)
        assert reward == pytest.approx(float(real_reward), abs=1e-5)
        assert terminated == real_terminated
        assert (terminated or truncated) == (real_terminated or real_truncated)
        if terminated or truncated:
            ends += 1
            observation, _ = learned.reset()
            place(real, observation)
    assert ends
    real.close()


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_many_rows(exact: Twin, real_id: str, mode: AutoresetMode) -> None:
    rows = 3
    learned = WorldModelVectorEnv(exact, rows, autoreset_mode=mode)
    reals = [gym.make(real_id) for _ in range(rows)]
    observation, _ = learned.reset(seed=0)
    for row, real in enumerate(reals):
        place(real, observation[row])
    over = np.zeros(rows, bool)
    for actions in batches(reals[0], rows):
        shown, rewards, terminated, truncated, infos = learned.step(actions)
        ended = terminated | truncated
        last = shown.copy()
        for row in np.flatnonzero(ended) if mode is AutoresetMode.SAME_STEP else ():
            last[row] = infos["final_obs"][row]
        for row, real in enumerate(reals):
            if over[row] and mode is AutoresetMode.NEXT_STEP:
                place(real, shown[row])
                continue
            real_shown, real_reward, real_terminated, real_truncated, _ = real.step(actions[row])
            close(last[row], real_shown)
            assert rewards[row] == pytest.approx(float(real_reward), abs=1e-5)
            assert terminated[row] == real_terminated
            assert ended[row] == (real_terminated or real_truncated)
        if mode is AutoresetMode.DISABLED and ended.any():
            shown, _ = learned.reset(options={"reset_mask": ended})
        if mode is not AutoresetMode.NEXT_STEP:
            for row in np.flatnonzero(ended):
                place(reals[row], shown[row])
        over = ended
    for real in reals:
        real.close()


def test_under_stable_baselines(exact: Twin, real_id: str) -> None:
    rows = 3
    learned = WorldModelSB3VecEnv(exact, rows, seed=0)
    reals = [gym.make(real_id) for _ in range(rows)]
    observation = learned.reset()
    for row, real in enumerate(reals):
        place(real, observation[row])
    for actions in batches(reals[0], rows):
        shown, rewards, dones, infos = learned.step(actions)
        for row, real in enumerate(reals):
            real_shown, real_reward, real_terminated, real_truncated, _ = real.step(actions[row])
            last = infos[row]["terminal_observation"] if dones[row] else shown[row]
            close(last, real_shown)
            assert rewards[row] == pytest.approx(float(real_reward), abs=1e-5)
            assert dones[row] == (real_terminated or real_truncated)
            if dones[row]:
                # Gymnasium may report both; SB3 wants to bootstrap only without termination.
                assert infos[row]["TimeLimit.truncated"] == (not real_terminated)
                place(real, shown[row])
    for real in reals:
        real.close()
