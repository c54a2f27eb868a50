"""The names that `import world_env` gives: a change of this list is a change of the API."""

import subprocess
import sys
from pathlib import Path

import pytest

import world_env

ROOT = Path(__file__).resolve().parents[1]
NAMES = [
    *["AlarmConfig", "BuildConfig", "CollectConfig", "Context", "EnvConfig", "EpisodeEnd"],
    *["ExploitationAlarm", "FitConfig", "LearnConfig", "PoolConfig", "Prediction"],
    *["ProgressBars", "RefineConfig", "Simulator", "SimulatorConfig"],
    *["TrainableWorldModel", "Twin", "WorldModel", "WorldModelEnv", "WorldModelSB3VecEnv"],
    *["WorldModelVectorEnv", "WorldSpec", "WrapperConfig", "build", "check_vector_env"],
    *["check_world_model", "collect", "compare", "errors", "fit", "learn", "lint"],
    *["list_twins", "open_dataset", "predict_return", "refine", "register_world_model"],
    *["rollout"],
]


def test_the_public_names_are_these() -> None:
    assert sorted(world_env.__all__) == NAMES
    assert set(NAMES) <= set(dir(world_env))


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(world_env, name) is not None
    assert not isinstance(getattr(world_env, name), type(sys)) or name == "errors"


def test_an_unknown_name_is_an_attribute_error_that_lists_the_public_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Twinn'.*Twin, "):
        world_env.Twinn  # noqa: B018


def test_the_import_loads_neither_torch_nor_stable_baselines3() -> None:
    code = (
        "import sys, world_env; "
        "sys.exit(sum(m in sys.modules for m in ('torch', 'stable_baselines3', 'scipy', 'tyro')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    "room", ["collection", "fitting", "rl", "refinement", "pipeline", "policy_evaluation"]
)
def test_the_settings_of_a_stage_load_no_torch(room: str) -> None:
    code = f"import sys, world_env.{room}.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
