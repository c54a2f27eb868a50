"""A limit on real steps holds over all purposes and processes, and is exact in one process."""

import json
import multiprocessing
import pickle
from pathlib import Path

import gymnasium as gym
import pytest
from counting_workers import play_until_the_limit

from world_env.errors import InvalidOptionError, RealStepLimitError
from world_env.policies.random_policy import RandomPolicy
from world_env.real.real_env import make_real
from world_env.real.step_ledger import StepLedger
from world_env.rollouts.real import run_real
from world_env.spec import EnvConfig

SPAWN = multiprocessing.get_context("spawn")
REAL = EnvConfig("counting:Counting-v0")


def step(env: gym.Env) -> None:
    if env.step(0)[2]:
        env.reset()


def counted_until_the_limit(ledger: StepLedger) -> tuple[int, list[gym.Env]]:
    """Steps that two environments of different purposes take in turn until the limit, and the environments."""
    envs = [make_real(REAL, purpose=purpose, ledger=ledger) for purpose in ("collect", "judge")]
    for env in envs:
        env.reset(seed=0)
    with pytest.raises(RealStepLimitError):
        for number in range(10_000):
            step(envs[number % 7 == 0])
    return number, envs


@pytest.mark.parametrize("limit", [0, 1, 99, 100, 101, 257, 1000])
@pytest.mark.parametrize("on_disk", [True, False])
def test_the_step_beyond_the_limit_is_not_taken(tmp_path: Path, limit: int, on_disk: bool) -> None:
    path = tmp_path / "steps.json" if on_disk else None
    ledger = StepLedger(path, max_steps=limit)
    number, envs = counted_until_the_limit(ledger)
    assert number == limit
    assert sum(env.unwrapped.total for env in envs) == limit  # type: ignore[attr-defined]
    assert ledger.total(()) == limit and ledger.steps_left == 0
    ledger.save()
    if path is not None and limit:
        assert sum(json.loads(path.read_text()).values()) == limit


def test_the_error_names_the_limit_what_was_taken_and_the_option(tmp_path: Path) -> None:
    ledger = StepLedger(tmp_path / "steps.json", max_steps=1_050)
    ledger.count("collect", 1_000)
    ledger.count("judge", 50)
    with pytest.raises(
        RealStepLimitError,
        match=r"limit of 1,050 real steps.*steps\.json: collect 1,000, judge 50.*--max-real-steps",
    ) as error:
        ledger.count("judge")
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    with pytest.raises(InvalidOptionError, match="max_steps must be >= 0, got -1"):
        StepLedger(max_steps=-1)


def test_steps_of_an_earlier_run_count(tmp_path: Path) -> None:
    earlier = StepLedger(tmp_path / "steps.json")
    earlier.count("collect", 130)
    earlier.save()
    assert counted_until_the_limit(StepLedger(tmp_path / "steps.json", max_steps=200))[0] == 70
    # A larger limit resumes; a smaller one allows nothing.
    assert counted_until_the_limit(StepLedger(tmp_path / "steps.json", max_steps=201))[0] == 1
    with pytest.raises(RealStepLimitError):
        StepLedger(tmp_path / "steps.json", max_steps=100).count("collect")


@pytest.mark.parametrize("own_path", [True, False])
def test_the_limit_of_a_parent_holds_and_a_refused_step_is_counted_nowhere(
    tmp_path: Path, own_path: bool
) -> None:
    parent = StepLedger(tmp_path / "all.json", max_steps=150)
    own = StepLedger(tmp_path / "own.json" if own_path else None, parent=parent)
    assert counted_until_the_limit(own)[0] == 150
    own.save()
    assert own.total(()) == parent.total(()) == 150
    # And the other way round.
    above = StepLedger()
    limited = StepLedger(tmp_path / "other.json", parent=above, max_steps=30)
    assert counted_until_the_limit(limited)[0] == 30 == above.total(())


def test_steps_given_back_can_be_taken_again() -> None:
    ledger = StepLedger(max_steps=10)
    assert ledger.take("judge", 100) == 10
    ledger.release("judge", 4)
    ledger.count("collect", 4)
    with pytest.raises(RealStepLimitError):
        ledger.take("judge", 1)
    assert StepLedger().take("judge", 100) == 100


def test_several_processes_together_stay_within_the_limit(tmp_path: Path) -> None:
    start, taken = SPAWN.Barrier(3), SPAWN.Value("l", 0)
    ledger = StepLedger(tmp_path / "steps.json", max_steps=1_500)
    workers = [
        SPAWN.Process(target=play_until_the_limit, args=(ledger, start, taken)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    # A process may stop while another one holds reserved steps, at most half of what was left then.
    assert 1_400 <= taken.value <= 1_500
    assert json.loads((tmp_path / "steps.json").read_text()) == {"collect": taken.value}


def test_worker_processes_use_every_step_of_the_limit_and_no_more(tmp_path: Path) -> None:
    policy, seeds = RandomPolicy(gym.spaces.Discrete(3)), range(40)
    free = StepLedger()
    wanted = run_real(policy, REAL, seeds, purpose="judge", ledger=free)
    steps = int(wanted.lengths.sum())
    # Episodes are shorter than a block: blocks that workers hold must not count against one another.
    ledger = StepLedger(tmp_path / "steps.json", max_steps=steps)
    found = run_real(policy, REAL, seeds, purpose="judge", ledger=ledger, workers=2)
    assert found.values.tolist() == wanted.values.tolist()
    assert ledger.total(()) == steps
    ledger = StepLedger(tmp_path / "fewer.json", max_steps=steps - 1)
    with pytest.raises(RealStepLimitError):
        run_real(policy, REAL, seeds, purpose="judge", ledger=ledger, workers=2)
    assert json.loads((tmp_path / "fewer.json").read_text()) == {"judge": steps - 1}
