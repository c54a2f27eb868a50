"""The rows of our tasks, and the configurations that follow from them."""

from pathlib import Path

import pytest

from training.build_task import build_task_config
from training.tasks import BUNDLED, TASKS, real_of, refine_task, task_of
from world_env import EnvConfig, FitConfig, Twin
from world_env.errors import InvalidOptionError
from world_env.pipeline.build import refine_config
from world_env.refinement.presets import MANY_STEPS
from world_env.spec import WrapperConfig


def test_a_task_has_the_updates_of_its_row(tmp_path: Path) -> None:
    task = "InvertedDoublePendulum-v5"
    config = refine_config(build_task_config(task, tmp_path))
    assert {config.fit_of(number).gradient_steps for number in range(config.rounds)} == {
        TASKS[task].gradient_steps
    }
    assert TASKS[task].gradient_steps is not None


def test_a_task_of_many_steps_is_refined_in_small_rounds(tmp_path: Path) -> None:
    for steps in (None, MANY_STEPS - 1):
        config = refine_config(build_task_config("Hopper-v5", tmp_path, steps=steps))
        assert config.steps == (steps or TASKS["Hopper-v5"].real_steps)
        many = config.steps >= MANY_STEPS
        assert (config.rounds > 5, config.warm_start, bool(config.explorers)) == (many, many, many)


def test_a_task_of_another_name_says_how_its_environment_is_made(tmp_path: Path) -> None:
    name = "Pendulum-v1-pixels"
    assert task_of(real_of(name)) is TASKS[name]
    assert task_of(EnvConfig("Pendulum-v1")) is TASKS["Pendulum-v1"]
    # An environment of the user's own is the id's, whatever it is wrapped in.
    wrapped = EnvConfig(
        "Pendulum-v1", {}, (WrapperConfig("gymnasium.wrappers:FlattenObservation"),)
    )
    assert task_of(wrapped) is TASKS["Pendulum-v1"]
    assert task_of(EnvConfig("Acme/Crane-v3")).twin == "crane"
    assert real_of("Acme/Crane-v3") == EnvConfig("Acme/Crane-v3")

    config = refine_config(build_task_config(name, tmp_path))
    assert config.real == real_of(name) == build_task_config(name, tmp_path).real
    assert (config.fit.family, config.learn.observation_mode) == ("rssm", "latent")
    assert config.fit.model == TASKS[name].model
    seen = refine_config(build_task_config(name, tmp_path).replace(observation_mode="observation"))
    assert seen.learn.observation_mode == "observation"
    sac = refine_config(build_task_config(name, tmp_path, algo="SAC")).fit
    assert (sac.family, sac.max_dataset_states) == ("rssm", TASKS[name].max_dataset_states)
    outside = real_of(name, {"g": 9.0}, (WrapperConfig("a:B"),))
    assert outside.wrappers == (*real_of(name).wrappers, WrapperConfig("a:B"))
    assert outside.kwargs == {"render_mode": "rgb_array", "g": 9.0}


def test_the_baseline_of_a_task_has_the_options_of_its_row(tmp_path: Path) -> None:
    for name, task in TASKS.items():
        assert build_task_config(name, tmp_path).baseline_algo_kwargs == task.algo_kwargs
        assert build_task_config(name, tmp_path, algo="SAC").baseline_algo_kwargs == {}


def test_a_bundled_twin_names_the_environment_of_its_task() -> None:
    for name, task in BUNDLED.items():
        stored = EnvConfig.from_json(Twin.load(task.twin).provenance["real"], where="the test")
        assert stored == real_of(name) and task_of(stored) is task


def test_another_family_does_not_get_the_sizes_of_the_row(tmp_path: Path) -> None:
    plain = build_task_config("Pendulum-v1-pixels", tmp_path)
    fit = refine_config(plain.replace(family="ensemble")).fit
    assert (fit.family, fit.model) == ("ensemble", {})
    both = plain.replace(family="rssm", fit=FitConfig(family="rssm", gradient_steps=7))
    assert (refine_config(both).fit.family, refine_config(both).fit.gradient_steps) == ("rssm", 7)


def test_the_folder_of_a_build_is_that_of_its_rounds(tmp_path: Path) -> None:
    plain = build_task_config("CartPole-v1", tmp_path)
    with pytest.raises(InvalidOptionError, match=r"elsewhere.*pass the same ones"):
        plain.replace(out=tmp_path / "elsewhere")


def test_the_rows_of_both_algorithms_explore_alike(tmp_path: Path) -> None:
    for name, task in TASKS.items():
        ppo, sac = (refine_task(task, real_of(name), tmp_path, 3, algo=a) for a in ("PPO", "SAC"))
        assert ppo.exploration == sac.exploration
        assert (ppo.seed, sac.seed, ppo.learn.seed, sac.learn.seed) == (3, 3, 3, 3)
