"""Of two processes that run the same stage in the same folder, the second is refused before it does anything."""

import multiprocessing
import os
import signal
import threading
import warnings
from pathlib import Path

import pytest
from filelock import FileLock
from stage_processes import REAL, run, run_and_wait

from world_env.collection.collect import collect
from world_env.collection.config import CollectConfig
from world_env.errors import StageBusyError
from world_env.real.step_ledger import StepLedger
from world_env.run_config import stage_lock

SPAWN = multiprocessing.get_context("spawn")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class Reached(Exception):
    """The stage runs."""


def reach(*_: object) -> None:
    raise Reached


@pytest.mark.parametrize("stage", ["fit", "learn", "refine", "build", "pool"])
@pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")
def test_the_second_process_of_a_stage_is_refused(stage: str, tmp_path: Path) -> None:
    collect(CollectConfig(REAL, tmp_path / "data", 200))
    running = SPAWN.Event()
    first = SPAWN.Process(target=run_and_wait, args=(stage, tmp_path, running))
    first.start()
    try:
        assert running.wait(60)
        before = contents(tmp_path)
        with pytest.raises(StageBusyError, match=f"{stage}: wait until it has finished"):
            run(stage, tmp_path)
        assert contents(tmp_path) == before
    finally:
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        first.join()
    # The lock of a killed process is gone, although its file is still there.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Reached):
            run(stage, tmp_path, reach)


def test_a_second_thread_is_refused_too_and_another_spelling_is_the_same_folder(
    tmp_path: Path,
) -> None:
    refused = []

    def enter() -> None:
        try:
            with stage_lock(tmp_path / "other" / ".." / "run"):
                pass
        except StageBusyError as error:
            refused.append(error)

    with stage_lock(tmp_path / "run"):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert len(refused) == 1
    enter()
    assert len(refused) == 1


def test_a_stage_that_made_no_folder_leaves_no_lock_file(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for folder in (tmp_path / "runs" / "build" / "x", tmp_path / "mine" / "x"):
        with pytest.raises(Reached), stage_lock(folder):
            raise Reached
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]
    # The lock of a folder with results stays: another process may be waiting for it.
    with stage_lock(tmp_path / "runs" / "x"):
        (tmp_path / "runs" / "x").mkdir()
    assert (tmp_path / "runs" / ".x.stage.lock").is_file()


def test_a_folder_without_permission_to_write_needs_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with stage_lock(tmp_path / "run"):
        pass


def test_two_ledgers_of_one_folder_are_not_locked_out(tmp_path: Path) -> None:
    # The lock of a stage is another one than that of the ledger and of the replaced folders inside.
    with stage_lock(tmp_path / "run"):
        ledger = StepLedger(tmp_path / "run" / "real-steps.json")
        ledger.count("collect", 3)
        ledger.save()
        collect(CollectConfig(REAL, tmp_path / "run" / "data", 20))
