"""WorldModelEnv and WorldModelVectorEnv as Gymnasium and its clients see them."""

import copy
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode
from oracle import oracle_twin, real_spec
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import world_env  # noqa: F401  registers the ids
from world_env.envs.env import WorldModelEnv
from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
from world_env.envs.vector_env import WorldModelVectorEnv
from world_env.errors import (
    InvalidActionError,
    InvalidObservationError,
    InvalidOptionError,
    ResetNeededError,
    TwinNotFoundError,
    WorldEnvError,
)
from world_env.simulation.termination import EpisodeEnd
from world_env.twin.twin import Twin
from world_env.wrappers.action_chunk import ActionChunk

HAS_CUDA = "this machine has a GPU: nothing is missing here"


@pytest.fixture
def folder(noisy: Twin, tmp_path: Path) -> Path:
    return noisy.save(tmp_path / "twin")


@pytest.mark.parametrize("family", ["oracle", "ensemble", "linear"])
@pytest.mark.filterwarnings("ignore:.*For Box action spaces, we recommend:UserWarning")
def test_both_checkers(real_id: str, family: str, tmp_path: Path) -> None:
    spec = real_spec(real_id)
    twin = oracle_twin(real_id) if family == "oracle" else Twin.untrained(spec, family)
    folder = twin.save(tmp_path / "twin")
    made = gym.make("WorldModel-v0", twin=str(folder), render_mode="rgb_array")
    check_env(made.unwrapped)
    check_env_sb3(WorldModelEnv(twin))


def test_make(folder: Path) -> None:
    env = gym.make("WorldModel-v0", twin=str(folder), horizon=9)
    assert isinstance(env.unwrapped, WorldModelEnv)
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(30):
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert isinstance(reward, float) and type(terminated) is bool and type(truncated) is bool
        assert isinstance(info["uncertainty"], float)
        if terminated or truncated:
            assert EpisodeEnd(info["end"]) in (EpisodeEnd.TERMINATED, EpisodeEnd.HORIZON)
            env.reset()
    env.close()
    env.close()


def test_a_spec_survives_json(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    for twin in (str(folder), folder, Path("twin")):
        env = gym.make("WorldModel-v0", twin=twin, horizon=9, temperature=0.5)
        text = env.spec.to_json()
        back = EnvSpec.from_json(text)
        assert back == env.spec and back.to_json() == text
        for spec in (back, env.spec):
            again = gym.make(spec)
            world = again.unwrapped
            assert isinstance(world, WorldModelEnv) and world.spec == env.unwrapped.spec
            assert world.simulator.config == env.unwrapped.simulator.config
            assert world.twin.fingerprint() == env.unwrapped.twin.fingerprint()
            assert data_equivalence(again.reset(seed=4)[0], env.reset(seed=4)[0])
            again.close()
        env.close()


def test_a_vector_spec_survives_json(folder: Path) -> None:
    env = gym.make_vec("WorldModel-v0", num_envs=2, twin=folder, horizon=9)
    back = EnvSpec.from_json(env.spec.to_json())
    assert back == env.spec
    again = gym.make_vec(back, num_envs=2)
    np.testing.assert_array_equal(again.reset(seed=4)[0], env.reset(seed=4)[0])
    assert again.get_attr("spec") == (back, back)


def test_make_vec(folder: Path) -> None:
    env = gym.make_vec("WorldModel-v0", num_envs=5, twin=str(folder), autoreset_mode="same_step")
    assert isinstance(env, WorldModelVectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    observation, _ = env.reset(seed=3)
    assert observation.shape == (5, 4)
    sync = gym.make_vec("WorldModel-v0", num_envs=2, twin=str(folder), vectorization_mode="sync")
    np.testing.assert_allclose(sync.reset(seed=3)[0], observation[:2])
    sync.close()
    env.close()
    env.close()


def test_the_module_prefix(folder: Path) -> None:
    env = gym.make("world_env:WorldModel-v0", twin=str(folder))
    env.reset(seed=0)
    env.close()


def test_spaces_are_the_real_ones(real_id: str) -> None:
    real, env = gym.make(real_id), WorldModelEnv(oracle_twin(real_id))
    assert env.observation_space == real.observation_space
    assert env.action_space == real.action_space
    assert env.metadata["render_fps"] == real.metadata["render_fps"] or real_id != "CartPole-v1"
    real.close()


def test_seeds(noisy: Twin) -> None:
    first, second = WorldModelEnv(noisy), WorldModelEnv(noisy)
    one, other = first.reset(seed=7)[0], second.reset(seed=7)[0]
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(first.step(1)[0], second.step(1)[0])
    np.testing.assert_array_equal(first.reset()[0], second.reset()[0])
    assert not np.array_equal(first.reset(seed=8)[0], one)
    # Without a seed two worlds differ.
    starts = {tuple(WorldModelEnv(noisy).reset()[0]) for _ in range(5)}
    assert len(starts) > 1


def test_step_before_reset_and_after_an_end(noisy: Twin) -> None:
    env = WorldModelEnv(noisy, render_mode="rgb_array")
    for call in (lambda: env.step(0), env.render, env.snapshot, env.fork):
        with pytest.raises(ResetNeededError):
            call()
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    while not any(env.step(1)[2:4]):
        pass
    with pytest.raises(ResetNeededError):
        env.step(1)


@pytest.mark.parametrize("action", [2, -1, 0.5, True, np.nan, [0], "left", None, [[0], [1, 2]]])
def test_bad_actions(noisy: Twin, action: Any) -> None:
    env = WorldModelEnv(noisy)
    env.reset(seed=0)
    with pytest.raises(InvalidActionError):
        env.step(action)
    env.step(np.int64(1)), env.step(np.array(1))


def test_constructor_arguments(noisy: Twin) -> None:
    assert WorldModelEnv(noisy, max_episode_steps=7).simulator.horizon == 7
    assert WorldModelEnv(noisy, horizon=9, max_episode_steps=7).simulator.horizon == 9
    assert WorldModelEnv(noisy, max_episode_steps=-1).simulator.horizon == 25
    for shell in (WorldModelEnv, WorldModelVectorEnv):
        with pytest.raises(InvalidOptionError, match="render_mode"):
            shell(noisy, render_mode="human")
        with pytest.raises(TwinNotFoundError):
            shell("no-such-twin")
    with pytest.raises(InvalidOptionError, match="NEXT_STEP"):
        WorldModelVectorEnv(noisy, 2, autoreset_mode="sometimes")
    quiet = WorldModelEnv(noisy, uncertainty=False)
    quiet.reset(seed=0)
    assert "uncertainty" not in quiet.step(0)[4]


@pytest.mark.parametrize("shell", [WorldModelEnv, WorldModelVectorEnv, WorldModelSB3VecEnv])
def test_an_unknown_argument_is_a_type_error_in_pythons_words(noisy: Twin, shell: type) -> None:
    def python(known: int = 0) -> None: ...

    with pytest.raises(TypeError) as words:
        python(frameskip=4)
    words_of_python = str(words.value).partition(" ")[2]
    with pytest.raises(
        TypeError, match=f"{words_of_python}: expected twin, .*temperature"
    ) as error:
        shell(noisy, frameskip=4)
    assert isinstance(error.value, WorldEnvError)
    with pytest.raises(TypeError, match=r"'horizont' \(also 'temperatur'\): .*horizon"):
        shell(noisy, horizont=9, temperatur=1.0)


def test_an_unknown_argument_passes_through_make(folder: Path) -> None:
    calls = (gym.make, lambda *args, **options: gym.make_vec(*args, num_envs=2, **options))
    for make in (
        *calls,
        lambda *args, **options: gym.make_vec(
            *args, num_envs=2, vectorization_mode="sync", vector_kwargs={}, **options
        ),
    ):
        with pytest.raises(TypeError, match="got an unexpected keyword argument 'frameskip'"):
            make("WorldModel-v0", twin=str(folder), frameskip=4)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_infos_hold_numbers(noisy: Twin, mode: AutoresetMode) -> None:
    """No strings and no objects, but for Gymnasium's own final_obs: clients make tensors of them."""
    env = WorldModelVectorEnv(noisy, 3, autoreset_mode=mode)
    env.reset(seed=0)
    ends: set[int] = set()
    for _ in range(60):
        *_, terminated, truncated, infos = env.step(np.ones(3, int))
        over = terminated | truncated
        final = infos.pop("final_obs", None)
        assert (final is None) or final.dtype == object
        told = infos.get("final_info", infos)
        for part in (told, {k: v for k, v in infos.items() if k != "final_info"}):
            assert {value.dtype.kind for value in part.values()} <= set("bif")
            assert all(part[f"_{key}"].dtype == bool for key in part if not key.startswith("_"))
        assert told["end"].dtype == np.int64
        assert ((told["end"] > 0) == over).all()
        ends |= {int(end) for end in told["end"][over]}
        if mode is AutoresetMode.DISABLED and over.any():
            env.reset(options={"reset_mask": over})
    assert {EpisodeEnd(end).name for end in ends} <= {"TERMINATED", "HORIZON"} and ends


SHELLS = [WorldModelEnv, WorldModelVectorEnv, WorldModelSB3VecEnv]

WRONG: list[dict[str, Any]] = [
    {"temperature": "hot"},
    {"temperature": math.nan},
    {"temperature": math.inf},
    {"temperature": None},
    {"temperature": -0.5},
    {"dataset_starts": "a"},
    {"dataset_starts": math.nan},
    {"dataset_starts": 1.5},
    {"uncertainty_threshold": math.nan},
    {"uncertainty_threshold": "x"},
    {"uncertainty_threshold": -1.0},
    {"uncertainty": "yes"},
    {"horizon": 2.5},
    {"horizon": "long"},
    {"horizon": 0},
    {"rollout_length": True},
    {"max_episode_steps": "long"},
    {"max_episode_steps": 2.5},
    {"termination": 3},
    {"on_uncertain": None},
]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_options_are_named(noisy: Twin, shell: type, wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(InvalidOptionError, match=f"{name} is"):
        shell(noisy, **wrong)


@pytest.mark.parametrize("shell", SHELLS)
def test_wrong_twins_and_devices_are_named(folder: Path, shell: type) -> None:
    for twin in (None, 3, b"cartpole", [folder]):
        with pytest.raises(InvalidOptionError, match="str or a Path"):
            shell(twin)
    for device in ("abc", "cuda:99", object()):
        with pytest.raises(InvalidOptionError, match="device is"):
            shell(folder, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason=HAS_CUDA)
def test_cuda_without_a_gpu_is_named(folder: Path) -> None:
    with pytest.raises(InvalidOptionError, match=r"'cuda'.*'cpu'"):
        gym.make("WorldModel-v0", twin=str(folder), device="cuda")


@pytest.mark.parametrize("shell", SHELLS[1:])
@pytest.mark.parametrize("rows", [2.5, 0, -1, "3", None, True])
def test_wrong_numbers_of_rows_are_named(noisy: Twin, shell: type, rows: Any) -> None:
    with pytest.raises(InvalidOptionError, match="num_envs"):
        shell(noisy, rows)
    assert type(shell(noisy, np.int64(2)).num_envs) is int


@pytest.mark.parametrize("options", [[1], 3, "observation", {1: 2, "a": 3}, [{}]])
def test_wrong_reset_options_are_named(noisy: Twin, options: Any) -> None:
    for env in (WorldModelEnv(noisy), WorldModelVectorEnv(noisy, 2)):
        with pytest.raises(InvalidOptionError, match="options"):
            env.reset(options=options)
        env.reset(options={})
    with pytest.raises(InvalidObservationError, match="cannot be converted to an array"):
        WorldModelEnv(noisy).reset(options={"observation": [[0.0], [0.0, 1.0]]})


def test_complex_actions_are_refused() -> None:
    env = WorldModelEnv(oracle_twin("Pendulum-v1"))
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match="real"):
        env.step(np.array([0.5 + 2.0j]))


def test_known_functions(noisy: Twin) -> None:
    def reward_fn(before: Any, action: Any, after: Any) -> np.ndarray:
        return np.full(len(after), 5.0)

    env = WorldModelEnv(noisy, reward_fn=reward_fn)
    env.reset(seed=0)
    assert env.step(0)[1] == 5.0
    assert noisy.reward_fn is None


def test_reset_options(noisy: Twin) -> None:
    env = WorldModelEnv(noisy)
    env.reset(seed=0)
    wanted = np.full(4, 0.02, np.float32)
    np.testing.assert_array_equal(env.reset(options={"observation": wanted})[0], wanted)
    context = {"observations": np.stack([wanted, wanted * 2]), "actions": np.array([1])}
    np.testing.assert_array_equal(env.reset(options={"context": context})[0], wanted * 2)
    snapshot = env.snapshot()
    first = [env.step(1)[0] for _ in range(3)]
    np.testing.assert_array_equal(env.reset(options={"snapshot": snapshot})[0], wanted * 2)
    np.testing.assert_array_equal(first, [env.step(1)[0] for _ in range(3)])
    for options in ({"observations": wanted}, {"observation": wanted[:2]}, {"start": 1}):
        with pytest.raises(ValueError):
            env.reset(options=options)


def test_snapshot_restore_fork_through_wrappers(noisy: Twin) -> None:
    env = gym.wrappers.TimeLimit(WorldModelEnv(noisy), 100)
    env.reset(seed=0)
    world = env.unwrapped
    assert isinstance(world, WorldModelEnv)
    snapshot = world.snapshot()
    first = [env.step(0)[0] for _ in range(4)]
    world.restore(snapshot)
    np.testing.assert_array_equal(first, [env.step(0)[0] for _ in range(4)])
    assert world.fork(6).num_rows == 6


def test_observations_and_infos_are_fresh(noisy: Twin) -> None:
    env = WorldModelVectorEnv(noisy, 3, autoreset_mode="same_step")
    observation, _ = env.reset(seed=0)
    for _ in range(30):
        kept = copy.deepcopy(observation)
        after, rewards, *_rest, infos = env.step(np.ones(3, int))
        np.testing.assert_array_equal(kept, observation)
        rewards[:] = -9
        for value in infos.values():
            if isinstance(value, np.ndarray) and value.dtype != object:
                value[:] = 0
        assert (env.simulator.finished == 0).all()
        observation = after


def test_rendering(noisy: Twin) -> None:
    env = WorldModelEnv(noisy, render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3
    env.close()
    vector = WorldModelVectorEnv(noisy, 2, render_mode="rgb_array")
    vector.reset(seed=0)
    assert len(vector.render()) == 2 and vector.call("render")[1].shape == frame.shape
    vector.close()
    assert WorldModelEnv(noisy).render() is None
    assert WorldModelVectorEnv(noisy).render() is None


def test_vector_client_calls(noisy: Twin) -> None:
    env = WorldModelVectorEnv(noisy, 3, autoreset_mode="disabled")
    env.reset(seed=0)
    assert env.get_attr("render_mode") == (None,) * 3
    assert env.get_attr("action_space") == (env.single_action_space,) * 3
    snapshot = env.call("snapshot")[0]
    assert len(snapshot) == 3
    env.set_attr("note", [1, 1, 1])
    assert env.call("note") == (1, 1, 1)
    with pytest.raises(InvalidOptionError, match="share"):
        env.set_attr("note", [1, 2, 3])
    env.call("restore", snapshot)
    assert env.call("fork", [0], 4)[0].num_rows == 4


def test_masked_resets(noisy: Twin) -> None:
    env = WorldModelVectorEnv(noisy, 3, autoreset_mode="disabled")
    env.reset(seed=0)
    while not env.simulator.finished.any():
        env.step(np.ones(3, int))
    with pytest.raises(ResetNeededError):
        env.step(np.ones(3, int))
    ended = env.simulator.finished.copy()
    env.reset(options={"reset_mask": ended})
    env.step(np.ones(3, int))
    for mask in (np.ones(2, bool), np.ones(3, int), [True] * 3, np.zeros(3, bool)):
        with pytest.raises(InvalidOptionError, match="reset_mask"):
            env.reset(options={"reset_mask": mask})


def test_lists_of_seeds(noisy: Twin) -> None:
    env, other = WorldModelVectorEnv(noisy, 3), WorldModelVectorEnv(noisy, 3)
    np.testing.assert_array_equal(env.reset(seed=[4, 5, 6])[0], other.reset(seed=4)[0])
    with pytest.raises(InvalidOptionError, match="2 seeds"):
        env.reset(seed=[1, 2])


def test_action_chunks(cartpole: Twin) -> None:
    env, plain = ActionChunk(WorldModelEnv(cartpole), 3), WorldModelEnv(cartpole)
    check_env_sb3(env)
    env.reset(seed=0), plain.reset(seed=0)
    shown, reward, *_rest, info = env.step([1, 0, 1])
    for action in (1, 0, 1):
        last = plain.step(action)
    np.testing.assert_array_equal(shown, last[0])
    assert reward == 3.0 and info["chunk_steps"] == 3
    terminated, steps = False, 3
    while not terminated:
        _, reward, terminated, _, info = env.step(np.ones(3, int))
        steps += info["chunk_steps"]
        assert reward == info["chunk_steps"]
    assert info["end"] == EpisodeEnd.TERMINATED and steps < 20
    with pytest.raises(InvalidActionError, match="chunk of 3"):
        env.step([1, 0])
    with pytest.raises(InvalidOptionError):
        ActionChunk(plain, 0)
    box = ActionChunk(gym.make("Pendulum-v1"), 4)
    assert box.action_space.shape == (4, 1)
    box.reset(seed=0), box.step(box.action_space.sample())
    box.close()
