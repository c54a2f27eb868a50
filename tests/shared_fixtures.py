"""Twins and models that tests share."""

import os
from pathlib import Path

import pytest
import torch
from oracle import ORACLES, oracle_twin, register_oracles
from small_ensemble import CONFIG, SPEC, statistics
from small_twin import small

from training.tasks import BUNDLED
from world_env.models.ensemble.model import EnsembleWorldModel
from world_env.real.api_check import forget_checks
from world_env.twin.serialization import list_twins
from world_env.twin.twin import Twin

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def oracle_families() -> None:
    register_oracles()


@pytest.fixture(autouse=True)
def unchecked_environments() -> None:
    """No environment has passed the dry run: its step is counted in each test that takes it."""
    forget_checks()


@pytest.fixture(params=sorted(ORACLES))
def real_id(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def exact(real_id: str) -> Twin:
    return oracle_twin(real_id)


@pytest.fixture
def cartpole() -> Twin:
    return oracle_twin("CartPole-v1")


@pytest.fixture
def noisy() -> Twin:
    """Noise in every step, and short episodes: whatever depends on streams or ends shows."""
    return oracle_twin("CartPole-v1", noise=0.01, horizon=25)


@pytest.fixture(scope="session")
def bundled() -> list[str]:
    """The names of the bundled twins: one for each of our tasks, so that no test over them passes on nothing."""
    if os.environ.get("WORLD_ENV_EMPTIED"):
        pytest.skip("WORLD_ENV_EMPTIED is set: there are no bundled twins, on purpose")
    names = list_twins()
    assert names == sorted(task.twin for task in BUNDLED.values())
    return names


@pytest.fixture
def model() -> EnsembleWorldModel:
    """An ensemble, untrained, with scales of its own: the data lies in -1..1 in every dimension."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = EnsembleWorldModel(SPEC, CONFIG)
    made.prepare(statistics())
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small().save(tmp_path / "twin")
