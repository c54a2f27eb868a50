"""Spaces that no policy can be trained on are refused before a real step."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from world_env.errors import SpaceMismatchError, UnsupportedSpaceError
from world_env.pipeline.build import build
from world_env.pipeline.config import BuildConfig
from world_env.real.real_env import make_real
from world_env.real.step_ledger import StepLedger
from world_env.refinement.config import RefineConfig
from world_env.refinement.refine import refine
from world_env.rl.config import LearnConfig
from world_env.rl.learn import learn
from world_env.spec import EnvConfig, WrapperConfig


class Counted(gym.Env):
    """Categories that start at other numbers than 0."""

    action_space = spaces.Discrete(2)

    def __init__(self, grouped: bool = False) -> None:
        self.grouped = grouped
        parts = {
            "mode": spaces.Discrete(3, start=1),
            "pair": spaces.MultiDiscrete([2, 3], start=[-1, 4]),
        }
        self.observation_space = spaces.Dict(parts) if grouped else parts["mode"]

    def _observation(self) -> Any:
        mode = self.steps % 3
        pair = np.array([mode % 2 - 1, 4 + mode])
        return {"mode": mode + 1, "pair": pair} if self.grouped else mode + 1

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = int(self.np_random.integers(3))
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += int(action)
        return self._observation(), float(action), False, False, {}


OBSERVED_FROM_ZERO = "world_env.wrappers:ZeroBasedObservations"


@pytest.mark.parametrize("grouped", [True, False])
def test_observations_that_do_not_count_from_zero_are_refused_before_a_real_step(
    grouped: bool, tmp_path: Path
) -> None:
    real, ledger = EnvConfig(Counted, {"grouped": grouped}, horizon=20), StepLedger()
    with pytest.raises(SpaceMismatchError, match=r"'(mode|observation)'") as raised:
        build(BuildConfig(real, tmp_path / "run", steps=900))
    assert OBSERVED_FROM_ZERO in str(raised.value)
    assert not (tmp_path / "run" / "round-0").exists()
    with pytest.raises(SpaceMismatchError, match=OBSERVED_FROM_ZERO):
        learn(real, LearnConfig(steps=100), ledger=ledger)
    assert ledger.total() == 0


@pytest.mark.parametrize("grouped", [True, False])
def test_a_wrapper_lets_observations_count_from_zero(grouped: bool) -> None:
    wrapper = WrapperConfig(OBSERVED_FROM_ZERO)
    real = EnvConfig(Counted, {"grouped": grouped}, (wrapper,), horizon=20)
    ledger = StepLedger()
    assert learn(real, LearnConfig(steps=64, algo_kwargs={"n_steps": 64}), ledger=ledger)
    env = make_real(real, purpose="collect", ledger=ledger)
    observation, _ = env.reset(seed=0)
    for _ in range(4):
        assert env.observation_space.contains(observation)
        mode = env.unwrapped.steps % 3
        assert (observation["mode"] if grouped else observation) == mode
        if grouped:
            assert observation["pair"].tolist() == [mode % 2, mode]
        observation = env.step(1)[0]


@pytest.mark.parametrize("algo", ["learn", "explorer"])
def test_action_masks_are_looked_for_before_a_real_step(algo: str, tmp_path: Path) -> None:
    masked: dict[str, Any] = {"algo": "MaskablePPO"}
    config = RefineConfig(
        EnvConfig("CartPole-v1"),
        tmp_path / "run",
        steps=400,
        learn=LearnConfig(**masked) if algo == "learn" else LearnConfig(),
        explorers={} if algo == "learn" else {"other": masked},
    )
    ledger = StepLedger()
    with pytest.raises(SpaceMismatchError, match="action masks need a Dict observation"):
        refine(config, ledger=ledger)
    assert ledger.total() == 0


def test_the_wrapper_for_observations_names_a_space_without_categories() -> None:
    wrapper = WrapperConfig(OBSERVED_FROM_ZERO)
    with pytest.raises(UnsupportedSpaceError, match="no part to shift"):
        make_real(EnvConfig("CartPole-v1", {}, (wrapper,)), purpose="collect", ledger=StepLedger())
