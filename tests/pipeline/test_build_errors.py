"""Errors of a build that its settings show come before a real step."""

from pathlib import Path
from typing import Any

import pytest

from world_env.errors import (
    InvalidOptionError,
    StageError,
    TooLittleDataError,
    UnknownFamilyError,
    WorldEnvError,
)
from world_env.fitting.config import FitConfig
from world_env.pipeline.build import build
from world_env.pipeline.config import BuildConfig
from world_env.policies.config import PolicyExploration
from world_env.refinement.config import RefineConfig
from world_env.rl.config import LearnConfig
from world_env.spec import EnvConfig


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
