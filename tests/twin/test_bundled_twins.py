"""The twins that come with the package: made by id, in the real environment's own terms, small, and traceable."""

import subprocess
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import wheel_smoke
from gymnasium.envs.registration import registry

import world_env  # noqa: F401  registers the ids
from training.tasks import BUNDLED, real_of
from world_env.envs.env import WorldModelEnv
from world_env.real.real_env import make_real
from world_env.real.step_ledger import StepLedger
from world_env.registration import _id_of
from world_env.twin.serialization import find_twin
from world_env.twin.twin import Twin

ROOT = Path(__file__).resolve().parents[2]
MAX_BYTES = 4_000_000

pytestmark = pytest.mark.usefixtures("bundled")


def id_of(task: str) -> str:
    real_id = real_of(task).env_id
    return f"WorldModel/{real_id.rpartition('-v')[0]}{task.removeprefix(real_id)}-v0"


def test_each_task_has_one_id() -> None:
    ids = {name for name in registry if name.startswith("WorldModel/")}
    assert ids == {id_of(task) for task in BUNDLED}


def test_two_twins_of_one_environment_have_two_ids() -> None:
    ids = [_id_of("Acme/Pendulum-v1", twin) for twin in ("pendulum", "pendulum-pixels")]
    assert ids == ["WorldModel/Pendulum-v0", "WorldModel/Pendulum-pixels-v0"]
    assert _id_of("HalfCheetah-v5", "half-cheetah") == "WorldModel/HalfCheetah-v0"


@pytest.mark.parametrize("task", BUNDLED)
def test_a_bundled_twin_stands_in_for_its_real_environment(task: str) -> None:
    config = real_of(task)
    real = make_real(config, purpose="judge", ledger=StepLedger())
    env = gym.make(id_of(task))
    world = env.unwrapped
    assert isinstance(world, WorldModelEnv) and real.spec is not None
    assert world.twin.spec.real_id == config.env_id
    assert world.twin.fingerprint() == Twin.load(BUNDLED[task].twin).fingerprint()
    for name in ("observation_space", "action_space"):
        mine, theirs = getattr(env, name), getattr(real, name)
        assert mine == theirs and mine.dtype == theirs.dtype and mine.shape == theirs.shape
    assert world.simulator.horizon == real.spec.max_episode_steps
    env.action_space.seed(0)
    shown, other = env.reset(seed=0)[0], real.reset(seed=0)[0]
    assert shown.dtype == other.dtype and shown.shape == other.shape
    moved, reward, *_, info = env.step(env.action_space.sample())
    assert not np.array_equal(moved, shown) and np.isfinite(reward) and info["uncertainty"] >= 0
    real.close()
    env.close()


@pytest.mark.parametrize("task", BUNDLED.values(), ids=lambda task: task.twin)
def test_a_bundled_twin_is_small(task) -> None:
    size = sum(path.stat().st_size for path in find_twin(task.twin).rglob("*") if path.is_file())
    assert 0 < size <= MAX_BYTES


def git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("task", BUNDLED.values(), ids=lambda task: task.twin)
def test_a_bundled_twin_comes_from_a_commit_of_this_history(task) -> None:
    if not (ROOT / ".git").exists() or "true" in git("rev-parse", "--is-shallow-repository").stdout:
        pytest.skip("no git history here")
    # A "+" says that tracked files were changed, as they are while twins are being built.
    commit = Twin.load(task.twin).provenance.commit.removesuffix("+")
    found = git("merge-base", "--is-ancestor", commit, "HEAD")
    assert found.returncode == 0, f"{commit} is no ancestor of HEAD: {found.stderr}"


def test_a_wheel_without_twins_does_not_pass_in_silence() -> None:
    wheel_smoke.check_names(["one"], [])
    wheel_smoke.check_names([], ["--without-twins"])
    for names, words, message in (
        ([], [], "no bundled twin"),
        (["one"], ["--without-twins"], "carries one"),
        (["one"], ["--quick"], "unknown"),
    ):
        with pytest.raises(SystemExit, match=message):
            wheel_smoke.check_names(names, words)
