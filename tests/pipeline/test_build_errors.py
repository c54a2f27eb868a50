"""Errors of a build that its settings show come before a real step."""

import importlib.util
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from world_env.collection.collect import collect
from world_env.collection.config import CollectConfig
from world_env.errors import (
    ConfigMismatchError,
    InvalidOptionError,
    StageError,
    TooLittleDataError,
    UnknownFamilyError,
    UnsupportedSpaceError,
    WorldEnvError,
)
from world_env.fitting.config import FitConfig
from world_env.fitting.preconditions import FitWarning
from world_env.pipeline.build import _MAY_CHANGE, build
from world_env.pipeline.config import BuildConfig
from world_env.pipeline.preconditions import check_before_steps
from world_env.pipeline.refinement_config import refine_config
from world_env.policies.config import PolicyExploration
from world_env.policy_evaluation.config import PoolConfig
from world_env.policy_evaluation.policy_pool import pool
from world_env.real.real_env import spec_of
from world_env.real.step_ledger import StepLedger
from world_env.refinement.config import RefineConfig
from world_env.refinement.preconditions import check_folder, check_model
from world_env.refinement.refine import refine
from world_env.rl.config import LearnConfig
from world_env.run_config import keep_config
from world_env.spec import EnvConfig, WorldSpec


def refinement(**change: Any) -> dict[str, Any]:
    plain = RefineConfig(EnvConfig("CartPole-v1"), Path("unused"), steps=400)
    return {"refinement": plain.replace(**change)}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"real": EnvConfig("CartPole-v1", {"max_episode_steps": -1})},
         StageError, "CartPole-v1 has no time limit.*max_episode_steps"),
        ({"algo": "SAC"}, InvalidOptionError, r"SAC needs continuous actions.*Discrete\(2\): use PPO"),
        ({"steps": 60}, TooLittleDataError, "first round has 60 real steps.*at least 100"),
        ({"steps": 300, "rounds": 4}, TooLittleDataError, "first round has 75 real steps"),
        ({"family": "rsmm"}, UnknownFamilyError, "rsmm"),
        ({"fit": FitConfig(model={"member": 3})}, InvalidOptionError, "{'member': 3} do not fit the family 'ensemble'"),
        ({"exploration": "wild"}, InvalidOptionError, "wild"),
        ({"pool": Path("no-such-pool")}, StageError, "no-such-pool"),
        ({"observation_mode": "vector"}, InvalidOptionError, "vector"),
        (refinement(rounds=2, later_exploration=PolicyExploration(path="newst")), InvalidOptionError,
         "'newst'.*selected, newest"),
        (refinement(learn=LearnConfig(algo_kwargs={"gama": 0.9})), InvalidOptionError, "gama.*for PPO.*gamma"),
        (refinement(learn=LearnConfig(algo="PPOO")), InvalidOptionError, "PPOO"),
        (refinement(learn=LearnConfig(algo="TD3")), InvalidOptionError, r"TD3 needs continuous.*Discrete\(2\)"),
        ({"real": EnvConfig("Pendulum-v1")} | refinement(real=EnvConfig("Pendulum-v1"), learn=LearnConfig(algo="DQN")),
         InvalidOptionError, r"DQN needs actions of a Discrete space.*Box"),
        (refinement(explorers={"bold": {"algo_kwargs": {"gama": 0.9}}}), InvalidOptionError, "gama.*for PPO.*gamma"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_a_real_step(
    change: dict[str, Any], error: type[WorldEnvError], words: str, tmp_path: Path
) -> None:
    if "refinement" in change:
        change["refinement"] = change["refinement"].replace(out=tmp_path / "run")
    with pytest.raises(error, match=words):
        build(BuildConfig(**{"real": EnvConfig("CartPole-v1"), "out": tmp_path / "run"} | change))
    assert not list(tmp_path.rglob("*.npz")) and not list(tmp_path.rglob("real-steps.json"))


class Drawing(gym.Env[Any, Any]):
    """Observations are images."""

    observation_space = spaces.Box(0, 255, (16, 16), np.uint8)
    action_space = spaces.Discrete(2)


gym.register("Drawing-v0", entry_point=Drawing, max_episode_steps=8)


@pytest.mark.parametrize(
    ("fit", "error", "words"),
    [
        (FitConfig(), UnsupportedSpaceError, "'ensemble' supports vector.*is an image.*'rssm'"),
        (FitConfig(family="linear"), UnsupportedSpaceError, "'linear'"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_fit_the_environment_is_refused_before_a_real_step(
    fit: FitConfig, error: type[WorldEnvError], words: str, tmp_path: Path
) -> None:
    # Its step is missing: any step would be another error.
    with pytest.raises(error, match=words):
        build(BuildConfig(EnvConfig("Drawing-v0"), tmp_path / "run", steps=900, fit=fit))
    rounds = RefineConfig(EnvConfig("Drawing-v0"), tmp_path / "run", fit=fit)
    with pytest.raises(error, match=words):
        refine(rounds, ledger=StepLedger())
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_hold_the_results_is_refused_before_a_real_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    config = BuildConfig(EnvConfig("CartPole-v1"), tmp_path / "file" / "run", steps=200)
    with pytest.raises(StageError, match=r"cannot write to .*file/run.*Choose a folder"):
        build(config)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(StageError, match="has 1 MB left, expected at least 50 MB"):
        build(config.replace(out=tmp_path / "run"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=60_000_000))
    with pytest.warns(FitWarning, match="10,000,000 steps .* up to 240 MB.* 60 MB left"):
        check_folder(tmp_path, spec_of(EnvConfig("CartPole-v1")), 10_000_000)


def test_missing_packages_of_the_page_are_said_before_a_real_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pygame" else found(name)
    )
    check_before_steps(BuildConfig(EnvConfig("CartPole-v1"), tmp_path, steps=200))
    assert 'no frames: pygame is not installed (pip install "world-env[classic]")' in caplog.text


def test_results_without_their_settings_are_not_taken_as_those_of_this_run(tmp_path: Path) -> None:
    for name, start in (
        ("round-0", lambda: build(BuildConfig(EnvConfig("CartPole-v1"), tmp_path, steps=200))),
        ("round-1", lambda: refine(RefineConfig(EnvConfig("CartPole-v1"), tmp_path), ledger=StepLedger())),
        ("judged.json", lambda: build(BuildConfig(EnvConfig("CartPole-v1"), tmp_path, steps=200))),
        ("pool.json", lambda: pool(PoolConfig(EnvConfig("CartPole-v1"), tmp_path))),
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        with pytest.raises(StageError, match=rf"holds {name} of an earlier run.*config.json"):
            start()
        (tmp_path / name).rmdir()
    assert not (tmp_path / "real-steps.json").exists()


def test_a_store_without_its_manifest_is_not_collected_again(tmp_path: Path) -> None:
    config = CollectConfig(EnvConfig("CartPole-v1"), tmp_path / "data", 60)
    collect(config)
    (tmp_path / "data" / "manifest.json").unlink()
    ledger = StepLedger()
    with pytest.raises(StageError, match=r"holds 1 shards of episodes.*but no manifest\.json"):
        collect(config, ledger=ledger)
    assert ledger.total() == 0


def test_the_settings_that_may_change_are_those_of_the_stage_only(tmp_path: Path) -> None:
    config = BuildConfig(EnvConfig("CartPole-v1"), tmp_path, steps=200)
    keep = partial(keep_config, tmp_path, may_change=_MAY_CHANGE)

    def record(config: BuildConfig) -> Any:
        return config.replace(refinement=refine_config(config)).to_json()

    keep(record(config))
    changed = record(config.replace(judge_episodes=7, max_real_steps=9_000))
    changed["refinement"] |= {"patience": 3, "tensorboard": "board"}
    keep(changed)
    # An argument of the environment with the name of such a setting is another matter.
    for name in ("out", "tensorboard", "shard_steps"):
        other = record(config)
        other["real"]["kwargs"] = {name: "x"}
        with pytest.raises(ConfigMismatchError, match=rf"real.kwargs.{name} was null, now \"x\""):
            keep(other)


def test_windows_longer_than_the_episodes_are_no_error() -> None:
    # The fit cuts them: episodes of one step are learned too.
    box = spaces.Box(-1.0, 1.0, (1,), np.float32)
    check_model(FitConfig(), WorldSpec(box, spaces.Discrete(2), horizon=1))
