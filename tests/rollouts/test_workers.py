"""Real episodes in worker processes: the same returns, every step counted once, deaths and errors reported."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO

from world_env.errors import SpaceMismatchError, StageError
from world_env.policies.function_policy import FunctionPolicy
from world_env.policies.mixture_policy import MixturePolicy
from world_env.policies.random_policy import RandomPolicy
from world_env.real.step_ledger import StepLedger
from world_env.rollouts.real import run_real
from world_env.spec import EnvConfig

SEEDS = [11, 12, 13, 14, 15]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def dying(tmp_path: Path, *deaths: str, **kwargs: object) -> EnvConfig:
    for name in deaths:
        (tmp_path / name).touch()
    return EnvConfig("dying_env:Dying-v0", {"deaths": str(tmp_path), **kwargs})


def right_or_random(observations: np.ndarray) -> np.ndarray:
    return (observations[:, 0] < 3).astype(np.int64)


def test_the_returns_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    found, ledgers = {}, {}
    for workers in (1, 2, 8):
        ledgers[workers] = StepLedger(tmp_path / f"{workers}.json", parent=StepLedger())
        done: list[int] = []
        found[workers] = run_real(
            RandomPolicy(spaces.Discrete(2)),
            EnvConfig("CartPole-v1"),
            SEEDS,
            purpose="select",
            ledger=ledgers[workers],
            workers=workers,
            progress=done.append,
        )
        assert done == [1, 2, 3, 4, 5]
    for workers in (2, 8):
        np.testing.assert_array_equal(found[workers].values, found[1].values)
        np.testing.assert_array_equal(found[workers].first, found[1].first)
        assert ledgers[workers].by_purpose == {"select": int(found[1].lengths.sum())}
        ledgers[workers].save()
        assert StepLedger(tmp_path / f"{workers}.json").by_purpose == ledgers[1].by_purpose


def test_the_policy_of_a_mixture_does_not_depend_on_the_process(tmp_path: Path) -> None:
    constant = [FunctionPolicy(lambda seen, i=i: np.full(len(seen), i)) for i in (0, 1)]
    mixture = MixturePolicy(constant, [0.5, 0.5])
    found = [
        run_real(
            mixture, dying(tmp_path), SEEDS, purpose="select", ledger=StepLedger(), workers=workers
        ).values
        for workers in (1, 2)
    ]
    np.testing.assert_array_equal(*found)
    assert len(set(np.sign(found[0]))) == 2  # both policies play


def test_the_episode_of_a_dead_worker_is_played_again(tmp_path: Path) -> None:
    ledger = StepLedger()
    real = dying(tmp_path, "12-a", "14-a", "14-b", at=12)
    found = run_real(
        FunctionPolicy(right_or_random), real, SEEDS, purpose="collect", ledger=ledger, workers=2
    )
    whole = run_real(
        FunctionPolicy(right_or_random), dying(tmp_path), SEEDS, purpose="select", ledger=ledger
    )
    np.testing.assert_array_equal(found.values, whole.values)
    # Five whole episodes, and the steps of the three that ended in a death.
    assert ledger.by_purpose == {"collect": 5 * 30 + 3 * 12, "select": 5 * 30}


def test_an_episode_that_always_kills_its_process_is_named(tmp_path: Path) -> None:
    ledger = StepLedger()
    real = dying(tmp_path, "13-a", "13-b", "13-c", "13-d", at=5)
    with pytest.raises(StageError, match=r"3 processes died.*reset seed 13 .*SIGKILL.*workers=1"):
        run_real(right_or_random, real, SEEDS, purpose="collect", ledger=ledger, workers=2)
    # Steps of the other worker, of its running episode too, are counted as they are taken.
    assert 3 * 5 <= ledger.by_purpose["collect"] <= 3 * 5 + 5 * 30


@pytest.mark.parametrize("fails", ["plain", "own"])
def test_an_error_of_the_environment_reaches_the_caller(tmp_path: Path, fails: str) -> None:
    ledger = StepLedger()
    real = dying(tmp_path, "13-a", at=5, fails=fails)
    with pytest.raises(RuntimeError, match="the motor is on fire"):
        run_real(right_or_random, real, SEEDS, purpose="collect", ledger=ledger, workers=2)


def test_an_environment_that_only_the_parent_knows_is_named() -> None:
    if "OnlyHere-v0" not in gym.registry:
        entry = "gymnasium.envs.classic_control:CartPoleEnv"
        gym.register("OnlyHere-v0", entry_point=entry, max_episode_steps=500)
    with pytest.raises(StageError, match=r"unknown environment id.*module:Id"):
        run_real(
            lambda seen: np.zeros(len(seen), np.int64),
            EnvConfig("OnlyHere-v0"),
            SEEDS,
            purpose="collect",
            ledger=StepLedger(),
            workers=2,
        )


def test_a_policy_of_other_spaces_costs_no_step(tmp_path: Path) -> None:
    PPO("MlpPolicy", gym.make("Pendulum-v1"), device="cpu").save(tmp_path / "ppo.zip")
    ledger = StepLedger()
    with pytest.raises(SpaceMismatchError, match="observation_space"):
        run_real(
            tmp_path / "ppo.zip",
            EnvConfig("CartPole-v1"),
            SEEDS,
            purpose="select",
            ledger=ledger,
            workers=2,
        )
    assert ledger.by_purpose == {}
