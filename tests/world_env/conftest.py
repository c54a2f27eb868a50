"""Twins that the tests of this folder share."""

from collections.abc import Iterator

import pytest
import torch
from oracle import ORACLES, forget_oracles, oracle_twin, register_oracles

from world_env.twin import Twin

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def oracle_families() -> Iterator[None]:
    register_oracles()
    yield
    forget_oracles()


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
