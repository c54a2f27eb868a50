"""Single, vector and SB3 worlds are one simulator: from one snapshot they step alike."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from oracle import oracle_twin, real_spec

from world_env.envs.env import WorldModelEnv
from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
from world_env.envs.vector_env import WorldModelVectorEnv
from world_env.simulation.simulator import Simulator, SimulatorConfig
from world_env.twin.twin import Twin

ROWS, STEPS = 3, 40
MODES = list(AutoresetMode)


@pytest.fixture(params=["oracle", "ensemble"])
def twin(request: pytest.FixtureRequest) -> Twin:
    if request.param == "oracle":
        return oracle_twin("CartPole-v1", noise=0.01, horizon=25)
    return Twin.untrained(real_spec("CartPole-v1", horizon=25))


@pytest.mark.parametrize("mode", MODES)
def test_vector_and_singles(twin: Twin, mode: AutoresetMode) -> None:
    vector = WorldModelVectorEnv(twin, ROWS, autoreset_mode=mode)
    vector.reset(seed=5)
    vector.action_space.seed(0)
    singles = [WorldModelEnv(twin) for _ in range(ROWS)]
    over, ends = np.zeros(ROWS, bool), 0
    for _ in range(STEPS):
        if not over.any():
            for row, single in enumerate(singles):
                single.restore(vector.snapshot([row]))
        actions = vector.action_space.sample()
        shown, rewards, terminated, truncated, infos = vector.step(actions)
        ended = terminated | truncated
        if not over.any():
            for row, single in enumerate(singles):
                alone, reward, one_terminated, one_truncated, info = single.step(actions[row])
                last, told = shown[row], infos
                if ended[row] and mode is AutoresetMode.SAME_STEP:
                    last, told = infos["final_obs"][row], infos["final_info"]
                np.testing.assert_allclose(last, alone, atol=1e-5)
                assert rewards[row] == pytest.approx(reward, abs=1e-5)
                assert (terminated[row], truncated[row]) == (one_terminated, one_truncated)
                assert told["end"][row] == info["end"]
                assert told["uncertainty"][row] == pytest.approx(info["uncertainty"], abs=1e-4)
        ends += int(ended.sum())
        if mode is AutoresetMode.DISABLED and ended.any():
            vector.reset(options={"reset_mask": ended})
        over = ended if mode is AutoresetMode.NEXT_STEP else np.zeros(ROWS, bool)
    assert ends


def test_restarts_agree_too(noisy: Twin) -> None:
    """The oracle draws the same numbers whatever the row count: whole lives agree, restarts included."""
    same = WorldModelVectorEnv(noisy, ROWS, autoreset_mode="same_step")
    later = WorldModelVectorEnv(noisy, ROWS, autoreset_mode="next_step")
    sb3 = WorldModelSB3VecEnv(noisy, ROWS, seed=5)
    single = WorldModelEnv(noisy)
    histories = [[same.reset(seed=5)[0][1]], [later.reset(seed=5)[0][1]], [sb3.reset()[1]]]
    histories.append([single.reset(seed=6)[0]])
    actions = np.random.default_rng(0).integers(0, 2, (STEPS, ROWS))
    position = np.zeros(ROWS, int)
    for step in range(STEPS):
        shown, _, _, _, _ = same.step(actions[step])
        histories[0].append(shown[1])
        histories[2].append(sb3.step(actions[step])[0][1])
        observation, _, terminated, truncated, _ = single.step(actions[step, 1])
        if terminated or truncated:
            observation, _ = single.reset()
        histories[3].append(observation)
    while len(histories[1]) <= STEPS:
        now = np.array([actions[min(p, STEPS - 1), row] for row, p in enumerate(position)])
        waiting = later.simulator.finished.copy()
        shown, *_ = later.step(now)
        position += ~waiting
        if waiting[1]:
            histories[1][-1] = shown[1]
        else:
            histories[1].append(shown[1])
    for other in histories[1:]:
        np.testing.assert_allclose(histories[0][:STEPS], other[:STEPS], atol=1e-6)


def test_vector_and_sb3(twin: Twin) -> None:
    vector = WorldModelVectorEnv(twin, ROWS, autoreset_mode="same_step", uncertainty=False)
    sb3 = WorldModelSB3VecEnv(twin, ROWS)
    vector.reset(seed=5)
    sb3.restore(vector.snapshot())
    vector.action_space.seed(0)
    for _ in range(STEPS):
        actions = vector.action_space.sample()
        shown, rewards, terminated, truncated, infos = vector.step(actions)
        other, other_rewards, dones, other_infos = sb3.step(actions)
        np.testing.assert_array_equal(shown, other)
        np.testing.assert_array_equal(rewards.astype(np.float32), other_rewards)
        np.testing.assert_array_equal(terminated | truncated, dones)
        assert other_rewards.dtype == np.float32
        for row in np.flatnonzero(dones):
            info = other_infos[row]
            np.testing.assert_array_equal(infos["final_obs"][row], info["terminal_observation"])
            assert info["TimeLimit.truncated"] == truncated[row]
            assert info["end"] == infos["final_info"]["end"][row]
        assert all(not info for row, info in enumerate(other_infos) if not dones[row])


def test_row_counts_share_their_draws() -> None:
    """Row i under seed s is row 0 under seed s + i, exactly for the oracle."""
    twin = oracle_twin("CartPole-v1", noise=0.01)
    many = Simulator(twin, 4, config=SimulatorConfig())
    many.reset(seed=10)
    alone = Simulator(twin, 1)
    alone.reset(seed=12)
    for _ in range(5):
        rows = many.step(np.ones(4, int)).observation
        one = alone.step(np.ones(1, int)).observation
        np.testing.assert_allclose(rows[2], one[0], atol=1e-6)
