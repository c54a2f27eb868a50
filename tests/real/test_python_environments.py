"""An id, a function and an environment object are taken wherever a real environment is."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hand_written import OnePort, Plain

from world_env.collection.collect import collect
from world_env.collection.config import CollectConfig
from world_env.errors import InvalidOptionError, StageError
from world_env.pipeline.config import BuildConfig
from world_env.policies.random_policy import RandomPolicy
from world_env.policy_evaluation.config import PoolConfig
from world_env.real import StepLedger, as_env_config, make_real, make_real_vec, spec_of
from world_env.real.api_check import check_step
from world_env.real.gate import environment_note
from world_env.refinement.config import RefineConfig
from world_env.rl.config import LearnConfig
from world_env.rl.learn import learn
from world_env.rollouts.real import run_real
from world_env.spec import EnvConfig

RANDOM = RandomPolicy(Plain.action_space)


def limited() -> gym.Env:
    return gym.wrappers.TimeLimit(Plain(), 12)


@pytest.mark.parametrize(
    "real",
    [
        "Plain-v0",
        EnvConfig("Plain-v0"),
        limited,
        lambda: limited(),
        limited(),
        gym.make("Plain-v0"),
        EnvConfig(Plain, horizon=9),
        EnvConfig(Plain(), horizon=9),
    ],
)
def test_every_form_is_collected_and_played(real: Any, tmp_path: Path) -> None:
    assert spec_of(real).observation_space == Plain.observation_space
    store = collect(CollectConfig(real, tmp_path / "d", steps=30))
    assert store.steps == 30
    # A second time in this process: nothing was closed or lost.
    ledger = StepLedger()
    returns = run_real(RANDOM, real, [1, 2], purpose="judge", ledger=ledger)
    assert ledger.by_purpose == {"judge": int(returns.lengths.sum())}


def test_the_settings_of_every_stage_take_every_form() -> None:
    made = Plain()
    for real, name in (
        ("Plain-v0", "Plain-v0"),
        (limited, f"python:{__name__}.limited"),
        (made, "python:hand_written.Plain()"),
    ):
        for config in (
            CollectConfig(real, "out", 10),
            BuildConfig(real, "out"),
            RefineConfig(real, "out", 10),
            PoolConfig(real, "out"),
        ):
            assert isinstance(config.real, EnvConfig)
            assert json.loads(json.dumps(config.to_json()))["real"]["env_id"] == name


def test_an_environment_object_is_used_as_it_is_and_stays_open(tmp_path: Path) -> None:
    class Closing(Plain):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    env = Closing()
    real = EnvConfig(env, horizon=9)
    collect(CollectConfig(real, tmp_path / "d", steps=30))
    made = make_real(real, purpose="collect", ledger=StepLedger())
    made.close()
    assert made.unwrapped is env and env.closed == 0


def test_objects_of_one_name_are_not_mixed_up() -> None:
    first, second = (EnvConfig(lambda n=n: gym.wrappers.TimeLimit(Plain(), n)) for n in (5, 6))
    assert first == second  # in files both are the same
    assert [spec_of(each).horizon for each in (first, second, first)] == [5, 6, 5]
    read = EnvConfig.from_json(first.to_json(), where="a file")
    with pytest.raises(StageError, match=r"several times.*pass the object itself"):
        spec_of(read)


def test_a_name_finds_its_object_in_the_same_process() -> None:
    read = EnvConfig.from_json(EnvConfig(limited).to_json(), where="a file")
    assert spec_of(read).horizon == 12
    with pytest.raises(StageError, match=r"'python:else.where' is a Python object, which this pro"):
        spec_of("python:else.where")


@pytest.mark.parametrize("real", [3, None, gym.make_vec("Plain-v0", 2), {"env_id": "Plain-v0"}])
def test_what_is_no_environment_is_named(real: Any) -> None:
    with pytest.raises(InvalidOptionError, match="expected the id of an environment, a function"):
        as_env_config(real)


def test_a_function_must_return_an_environment() -> None:
    with pytest.raises(StageError, match=r"returned an object of type builtins.int, expected one"):
        spec_of(lambda: 3)
    with pytest.raises(StageError, match=r"expected one gymnasium.Env.*vectors"):
        spec_of(lambda: gym.make_vec("Plain-v0", 2))
    with pytest.raises(StageError, match="is a learned environment"):
        spec_of(lambda: gym.make("world_env:WorldModel-v0"))
    with pytest.raises(StageError, match="is a learned environment"):
        spec_of(gym.make("world_env:WorldModel-v0"))
    with pytest.raises(StageError, match="exists already"):
        spec_of(EnvConfig(limited(), {"size": 3}))


def test_arguments_reach_a_function() -> None:
    def made(limit: int) -> gym.Env:
        return gym.wrappers.TimeLimit(Plain(), limit)

    assert spec_of(EnvConfig(made, {"limit": np.int64(8)})).horizon == 8


def test_an_error_of_a_constructor_is_told_in_words() -> None:
    def made(size: int, error: str = "") -> gym.Env:
        if error:
            raise {"value": ValueError, "robot": RuntimeError}[error](f"{error} is wrong")
        return limited()

    gym.register("Made-v0", entry_point=made, max_episode_steps=9)
    try:
        for real in (made, "Made-v0"):
            with pytest.raises(
                StageError, match=r"arguments \{\} \(TypeError: .*size.*--env-kwargs"
            ):
                spec_of(EnvConfig(real))
            with pytest.raises(
                StageError, match=r"ValueError: value is wrong, in test_python_env.*, l"
            ):
                spec_of(EnvConfig(real, {"size": 1, "error": "value"}))
            with pytest.raises(RuntimeError, match="robot is wrong") as raised:
                spec_of(EnvConfig(real, {"size": 1, "error": "robot"}))
            note, inside = environment_note(raised.value) or ("", "")
            assert note.startswith("raised by the creation of the real environment")
            assert "in made" in inside and "gate.py" not in inside
        with pytest.raises(
            StageError, match=r"cannot make Made-v0 .*`max_episode_steps` to be posi"
        ):
            spec_of(EnvConfig("Made-v0", {"size": 1, "max_episode_steps": 0}))
    finally:
        del gym.registry["Made-v0"]


def test_long_arguments_are_told_apart_and_cut_in_texts() -> None:
    def made(ice: str, limit: int) -> gym.Env:
        return gym.wrappers.TimeLimit(Plain(), limit)

    long = {"ice": "x" * 5_000}
    assert [spec_of(EnvConfig(made, {**long, "limit": n})).horizon for n in (5, 6)] == [5, 6]
    with pytest.raises(StageError, match="cannot make") as raised:
        spec_of(EnvConfig(made, long))
    assert len(str(raised.value)) < 600
    settings = CollectConfig(EnvConfig("Plain-v0", long), Path("out"), 10)
    assert len(repr(settings)) < 600 and settings.to_json()["real"]["kwargs"] == long


def test_workers_play_functions_and_refuse_objects() -> None:
    policy, seeds = RANDOM, [3, 4, 5]
    shift = 2.0  # a closure, which only cloudpickle takes

    def made() -> gym.Env:
        env = gym.wrappers.TimeLimit(Plain(), 8)
        return gym.wrappers.TransformReward(env, lambda reward: reward + shift)

    def run(real: Any, workers: int) -> Any:
        return run_real(
            policy, real, seeds, purpose="judge", ledger=StepLedger(), workers=workers
        ).values

    np.testing.assert_array_equal(run(made, 1), run(made, 2))
    with pytest.raises(StageError, match=r"workers=2 needs several real environments"):
        run(limited(), 2)
    lock = threading.Lock()
    with pytest.raises(StageError, match=r"cannot be sent to worker processes"):
        run(lambda: (lock, limited())[1], 2)
    with pytest.raises(StageError, match=r"training with num_envs=2 needs several"):
        make_real_vec(limited(), 2, purpose="collect", ledger=StepLedger())


def test_one_open_environment_is_enough_for_every_stage(tmp_path: Path) -> None:
    config = LearnConfig(steps=64, num_envs=1, algo_kwargs={"n_steps": 32, "batch_size": 32})
    learn("OnePort-v0", config, ledger=StepLedger())
    assert not OnePort.open_now
    run_real(RANDOM, "OnePort-v0", [1, 2, 3], purpose="judge", ledger=StepLedger())
    assert not OnePort.open_now
    learn(EnvConfig(Plain(), horizon=9), config, ledger=StepLedger())


MODULE = """
import gymnasium as gym, numpy as np
class Mine(gym.Env):
    observation_space, action_space = gym.spaces.Box(-9, 9, (1,), np.float32), gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-1, 1)
        return np.array([self.x], np.float32), {}
    def step(self, action):
        self.x += 0.2 * action - 0.1
        return np.array([self.x], np.float32), -abs(self.x), False, False, {}
class Half(gym.RewardWrapper):
    def reward(self, reward):
        return reward / 2
gym.register("Mine-v0", Mine, max_episode_steps=20)
"""
PLAY = """
from world_env.policies import RandomPolicy
from world_env.real import StepLedger, spec_of
from world_env.rollouts import run_real
if __name__ == "__main__":
    policy = RandomPolicy(spec_of("mine:Mine-v0").action_space)
    found = run_real(policy, "mine:Mine-v0", [1, 2, 3], purpose="judge", ledger=StepLedger(), workers=2)
    print(found.lengths.tolist())
"""


def run_in(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_a_module_in_the_working_directory_is_found(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODULE)
    collecting = ["collect", "mine:Mine-v0", "--steps", "40", "--out", "data", "--horizon", "10"]
    command = ["-m", "world_env.cli.main", *collecting, "--wrapper", "mine:Half"]
    done = run_in(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "data" / "config.json").read_text())["real"]["horizon"] == 10
    # A script in another folder, whose workers start in the working directory.
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "play.py").write_text(PLAY)
    done = run_in(tmp_path, "scripts/play.py")
    assert done.stdout.strip() == "[20, 20, 20]", done.stderr


def test_a_missing_module_is_named_with_the_folder(tmp_path: Path) -> None:
    command = ["-m", "world_env.cli.main", "collect", "mine:Mine-v0", "--steps", "9", "--out", "d"]
    done = run_in(tmp_path, *command)
    assert done.returncode == 2
    words = f"nor in the working directory {tmp_path}. Run in the folder of mine.py, install"
    assert words in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "mine.py").write_text("import not_installed_here")
    done = run_in(tmp_path, *command)
    assert "mine needs the module 'not_installed_here', which is not installed" in done.stderr


@pytest.mark.parametrize("name", ["Plain", "plain_for_a_while"])
def test_a_class_or_a_function_of_a_module_needs_no_registration(name: str, tmp_path: Path) -> None:
    real = EnvConfig(f"hand_written:{name}", horizon=9)
    store = collect(CollectConfig(real, tmp_path / "d", steps=30))
    assert store.steps == 30 and spec_of(real).horizon == 9
    # It is checked once in a process, as any other environment.
    assert check_step(real).steps == 0
    with pytest.raises(StageError, match=r"has no time limit.*--horizon"):
        spec_of(f"hand_written:{name}")
    # In another process too, which an object or a function is not.
    ledger = StepLedger()
    returns = run_real(RANDOM, real, [1, 2], purpose="judge", ledger=ledger, workers=2)
    assert ledger.by_purpose == {"judge": int(returns.lengths.sum())}


@pytest.mark.parametrize(
    ("env_id", "kwargs", "said"),
    [
        ("hand_written:Plainn", {}, "unknown environment id.*module:Class"),
        ("hand_written:np", {}, "an object of type module, expected a class or a function"),
        ("hand_written:Plain", {"mass": 2}, "arguments {'mass': 2}: .*'mass'.*--env-kwargs"),
        ("builtins:dict", {}, "returned an object of type builtins.dict, expected one gymnasium"),
        ("world_env:WorldModelEnv", {"twin": "cartpole"}, "is a learned environment"),
    ],
)
def test_what_a_module_has_instead_is_named(env_id: str, kwargs: Any, said: str) -> None:
    with pytest.raises(StageError, match=said):
        spec_of(EnvConfig(env_id, kwargs=kwargs, horizon=5))
