"""Saving a twin: all or nothing, through failures, kills and other processes."""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import CartPoleOracle, OracleConfig, oracle_twin
from small_twin import small

import world_env.twin.serialization as folder_module
import world_env.twin.twin as twin_module
from world_env import atomic_io
from world_env.errors import TwinBusyError, TwinNotFoundError, TwinSaveError
from world_env.results import Fidelity, Provenance
from world_env.results.fidelity import FitLosses
from world_env.twin.twin import Twin, load_cached


def test_saving_replaces_a_twin_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "twin"
    small(0).save(target)
    small(1).save(target)
    wanted = small(1).model.state_dict()
    got = Twin.load(target).model.state_dict()
    assert all(torch.equal(value, got[name]) for name, value in wanted.items())
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == ["twin"]
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    (tmp_path / "file").write_text("one file")
    for occupied in (precious, tmp_path / "file"):
        with pytest.raises(TwinSaveError, match="is not a twin"):
            small().save(occupied)
    assert (precious / "thesis.txt").read_text() == "years"
    (tmp_path / "empty").mkdir()
    small().save(tmp_path / "empty")
    with pytest.raises(TwinSaveError):
        small().save(tmp_path / "file" / "below")


def test_a_failed_save_leaves_the_old_twin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(path: Path, blob: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(twin_module, "write_bytes", full_disk)
    with pytest.raises(TwinSaveError, match="No space left"):
        small(1).save(folder)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert not [p for p in folder.parent.iterdir() if p.name.endswith((".new", ".old"))]


def planted(suffix: str, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Renaming a folder of this suffix fails."""
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name.endswith(suffix):
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_a_failure_between_the_renames_puts_the_old_twin_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    planted(".new", monkeypatch, error)
    with pytest.raises((TwinSaveError, KeyboardInterrupt)) as raised:
        small(1).save(folder)
    assert "unchanged" in str(raised.value) or not isinstance(error, OSError)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert not [p for p in folder.parent.iterdir() if p.name.endswith((".new", ".old"))]


def test_where_the_old_twin_cannot_come_back_its_place_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        planted((".new", ".old"), patch, OSError(5, "Input/output error"))
        with pytest.raises(TwinSaveError, match=r"complete at .*\.old") as raised:
            small(1).save(folder)
    assert "unchanged" not in str(raised.value)
    assert_same_twin(Twin.load(folder), small(0))


def killed_between_renames(folder: Path) -> Path:
    """What a process leaves that was killed then: the old folder aside, the new one beside."""
    small(1).save(folder.parent / ".twin.newabcde.new")
    return folder.rename(folder.parent / ".twin.old_1234.old")


def assert_same_twin(first: Twin, second: Twin) -> None:
    assert first.fingerprint() == second.fingerprint()


@pytest.mark.parametrize("load", [Twin.load, load_cached])
def test_a_kill_between_the_renames_is_undone_by_loading(
    folder: Path, load: Callable[[Path], Twin]
) -> None:
    killed_between_renames(folder)
    (folder.parent / ".twin.broken_1.old").mkdir()
    assert_same_twin(load(folder), small(0))
    assert folder.is_dir()


def test_a_bundled_twin_comes_back_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "BUNDLED", folder.parent)
    killed_between_renames(folder)
    assert_same_twin(Twin.load("twin"), small(0))


def test_a_kill_between_the_renames_is_tidied_by_saving(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_between_renames(folder)
    other = small(2).save(folder.parent / ".twin.b.old_1234.old")
    with monkeypatch.context() as patch:
        planted(".new", patch, OSError(5, "Input/output error"))
        with pytest.raises(TwinSaveError, match="unchanged"):
            small(1).save(folder)
    assert_same_twin(Twin.load(folder), small(0))
    killed_between_renames(folder)
    small(3).save(folder)
    assert_same_twin(Twin.load(folder), small(3))
    folders = {path.name for path in folder.parent.iterdir() if path.is_dir()}
    assert folders == {"twin", other.name}


def test_nothing_is_put_back_while_a_process_saves(folder: Path) -> None:
    old = killed_between_renames(folder)
    with atomic_io.folder_lock(folder, "twin"), pytest.raises(TwinNotFoundError):
        Twin.load(folder)
    assert old.is_dir() and not folder.exists()


def test_not_a_number_is_never_written(tmp_path: Path) -> None:
    measured = Fidelity(reward_error=float("nan"), loss=FitLosses(best_open_loop=float("inf")))
    folder = dataclasses.replace(small(), fidelity=measured).save(tmp_path / "twin")
    assert "NaN" not in (folder / "twin.json").read_text()
    assert Twin.load(folder).fidelity == Fidelity()


@pytest.mark.parametrize("config", [None, {}, {"noise": 0.0}, OracleConfig, 3])
def test_a_model_without_a_dataclass_config_is_not_saved(tmp_path: Path, config: Any) -> None:
    twin = oracle_twin("CartPole-v1")
    bad = dataclasses.replace(twin, model=CartPoleOracle(twin.spec, config))
    with pytest.raises(TwinSaveError, match="frozen dataclass"):
        bad.save(tmp_path / "twin")
    assert not (tmp_path / "twin").exists()


def test_what_is_no_json_is_named(tmp_path: Path) -> None:
    bad = dataclasses.replace(
        small(), provenance=Provenance(stages={"data": {"from": {1: object()}}})
    )
    with pytest.raises(TwinSaveError, match=r"object.*provenance"):
        bad.save(tmp_path / "twin")
    assert not (tmp_path / "twin").exists()


def test_an_unwritable_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        # Permissions do not bind root: the refusal itself is simulated.
        def refuse(*args: Any, **kwargs: Any) -> str:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(atomic_io.tempfile, "mkdtemp", refuse)
    else:
        tmp_path.chmod(0o500)
    with pytest.raises(TwinSaveError, match="Permission denied"):
        small().save(tmp_path / "twin")
    tmp_path.chmod(0o700)


SAVER = """
import sys
import time
from world_env.spec import WorldSpec
from gymnasium import spaces
from world_env.models.ensemble.model import EnsembleConfig
from world_env.twin.twin import Twin
from world_env.errors import TwinBusyError
import numpy as np
spec = WorldSpec(spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(2))
small = EnsembleConfig(members=2, width=8, layers=1, head_width=8)
twin = Twin.untrained(spec, config=small, seed=int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
saved = 0
while saved < 5:
    try:
        twin.save(sys.argv[1])
        saved += 1
    except TwinBusyError:
        time.sleep(0.002)
print(saved)
"""


def test_two_processes_saving_one_twin(tmp_path: Path) -> None:
    target = tmp_path / "twin"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", SAVER, str(target)]
    savers = [subprocess.Popen([*command, str(seed)], **pipes) for seed in range(2)]
    for saver in savers:
        assert saver.stdout is not None and saver.stdout.readline() == "ready\n"
    for saver in savers:
        assert saver.stdin is not None
        saver.stdin.write("go\n")
        saver.stdin.flush()
    outputs = [saver.communicate(timeout=60)[0] for saver in savers]
    assert all(saver.returncode == 0 for saver in savers)
    assert [int(output) for output in outputs] == [5, 5]
    Twin.load(target)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["twin"]


def test_a_busy_twin_is_named(folder: Path) -> None:
    with (
        atomic_io.folder_lock(folder, "twin"),
        pytest.raises(TwinBusyError, match="another process"),
    ):
        small().save(folder)
    small().save(folder)


def test_a_kill_while_saving_leaves_a_whole_twin(tmp_path: Path) -> None:
    target = tmp_path / "twin"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    loop = SAVER.replace("saved < 5", "True")
    saver = subprocess.Popen([sys.executable, "-c", loop, str(target), "0"], **pipes)
    assert saver.stdin is not None and saver.stdout is not None
    saver.stdout.readline()
    saver.stdin.write("go\n")
    saver.stdin.flush()
    deadline = time.monotonic() + 30
    while not target.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    saver.kill()
    saver.communicate()
    # The first save was complete: whatever moment the kill hit, there is a twin.
    Twin.load(target)
    small().save(target)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["twin"]
