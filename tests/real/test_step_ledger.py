"""One ledger file counts the steps of several processes: none is lost, and a kill adds at most its reservation."""

import copy
import json
import multiprocessing
import os
import pickle
import signal
import threading
from pathlib import Path

import pytest
from counting_workers import play, play_until_killed
from filelock import FileLock

from world_env.errors import StageError
from world_env.real import step_ledger
from world_env.real.real_env import make_real
from world_env.real.step_ledger import StepLedger
from world_env.spec import EnvConfig

SPAWN = multiprocessing.get_context("spawn")


def ledgers(folder: Path) -> StepLedger:
    """A stage's ledger that passes its steps on to a pipeline's."""
    return StepLedger(folder / "steps.json", parent=StepLedger(folder / "real-steps.json"))


def test_processes_that_count_into_one_file_lose_no_step(tmp_path: Path) -> None:
    start = SPAWN.Barrier(3)
    workers = [
        SPAWN.Process(target=play, args=(ledgers(tmp_path), start, purpose, steps))
        for purpose, steps in (("collect", 4321), ("collect", 2555), ("judge", 777))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    for name in ("steps.json", "real-steps.json"):
        assert json.loads((tmp_path / name).read_text()) == {"collect": 6876, "judge": 777}
    assert ledgers(tmp_path).total() == 6876


def test_a_killed_process_leaves_at_most_its_reservation(tmp_path: Path) -> None:
    here = ledgers(tmp_path)
    here.count("collect", 30)
    taken = SPAWN.Value("l", 0)
    worker = SPAWN.Process(target=play_until_killed, args=(here, taken, 450))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    # The killed process holds no lock, and this one goes on.
    here.count("collect", 300)
    here.save()
    for name in ("steps.json", "real-steps.json"):
        counted = json.loads((tmp_path / name).read_text())["collect"]
        assert 330 + taken.value <= counted <= 330 + taken.value + 100
    assert taken.value == 450
    assert here.by_purpose == json.loads((tmp_path / "steps.json").read_text())


def test_two_ledgers_of_a_file_know_each_others_steps(tmp_path: Path) -> None:
    one, two = StepLedger(tmp_path / "steps.json"), StepLedger(tmp_path / "steps.json")
    one.count("collect", 7)
    two.count("judge", 250)
    two.count("collect", 1)
    one.save()
    two.save()
    assert one.by_purpose == two.by_purpose == {"collect": 8, "judge": 250}


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda ledger: pickle.loads(pickle.dumps(ledger))]
)
def test_a_copy_counts_into_the_same_files_and_reserves_its_own_steps(
    tmp_path: Path, copied: object
) -> None:
    one = ledgers(tmp_path)
    one.count("collect", 1)
    two = copied(one)  # type: ignore[operator]
    for _ in range(99):
        one.count("collect")
        two.count("collect")
    one.save()
    two.save()
    for name in ("steps.json", "real-steps.json"):
        assert json.loads((tmp_path / name).read_text()) == {"collect": 199}


def test_a_ledger_in_memory_does_not_travel() -> None:
    with pytest.raises(TypeError, match="give StepLedger a path"):
        pickle.dumps(StepLedger())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks exist on POSIX only")
# JAX, which other tests import, warns of every fork.
@pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")
@pytest.mark.parametrize("on_disk", [True, False])
def test_a_forked_process_takes_no_reserved_step_of_its_parent(
    tmp_path: Path, on_disk: bool
) -> None:
    ledger = ledgers(tmp_path) if on_disk else StepLedger()
    ledger.count("collect", 1)
    context = multiprocessing.get_context("fork")
    worker = context.Process(target=ledger.count, args=("collect", 60))
    worker.start()
    worker.join()
    # Counts in memory would end with the process: it fails before it takes a step.
    assert worker.exitcode == (0 if on_disk else 1)
    ledger.count("collect", 60)
    ledger.save()
    if on_disk:
        # The forked process did not save: its reservation stays.
        assert 121 <= ledger.by_purpose["collect"] <= 221
    else:
        assert ledger.by_purpose == {"collect": 61}


def test_a_step_waits_for_a_busy_ledger_and_then_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_ledger, "_LOCK_SECONDS", 0.2)
    env = make_real(
        EnvConfig("counting:Counting-v0"),
        purpose="collect",
        ledger=StepLedger(tmp_path / "steps.json"),
    )
    env.reset(seed=0)
    busy = FileLock(tmp_path / ".steps.json.lock")
    busy.acquire()
    with pytest.raises(StageError, match=r"steps\.json.*another process"):
        env.step(0)
    # The step that was not counted was not taken.
    assert env.unwrapped.total == 0  # type: ignore[attr-defined]
    monkeypatch.setattr(step_ledger, "_LOCK_SECONDS", 60.0)
    patient = StepLedger(tmp_path / "steps.json")
    counting = threading.Thread(target=patient.count, args=("collect", 5))
    counting.start()
    counting.join(0.2)
    assert counting.is_alive()
    busy.release()
    counting.join()
    patient.save()
    assert patient.by_purpose == {"collect": 5}
