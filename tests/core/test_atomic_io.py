"""Folders of any kind are replaced as a whole, or not at all."""

from pathlib import Path

import pytest

from world_env.atomic_io import FolderBusyError, FolderError, replaced_folder, restore_folder

FILES = ("card.json", "weights.bin")


def write(target: Path, text: str) -> None:
    with replaced_folder(target, files=FILES, noun="policy") as fresh:
        for name in FILES:
            (fresh / name).write_text(text)


def read(target: Path) -> set[str]:
    return {(target / name).read_text() for name in FILES}


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "policy"
    write(target, "one")
    (target / "extra").write_text("of the first")
    write(target, "two")
    assert read(target) == {"two"}
    assert sorted(path.name for path in target.iterdir()) == sorted(FILES)
    with pytest.raises(RuntimeError), replaced_folder(target, files=FILES, noun="policy") as fresh:
        (fresh / FILES[0]).write_text("three")
        raise RuntimeError
    assert read(target) == {"two"}
    assert [path.name for path in target.parent.iterdir() if path.is_dir()] == ["policy"]


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FolderError, match="is not a policy"):
        write(tmp_path, "one")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_one_process_replaces_a_folder_at_a_time(tmp_path: Path) -> None:
    with replaced_folder(tmp_path / "policy", files=FILES, noun="policy"):
        with pytest.raises(FolderBusyError, match="another process is writing the policy"):
            write(tmp_path / "policy", "two")


def test_a_whole_old_folder_comes_back_after_a_kill(tmp_path: Path) -> None:
    write(tmp_path / "policy", "one")
    old = (tmp_path / "policy").rename(tmp_path / ".policy.abcd1234.old")
    (old / FILES[1]).rename(tmp_path / "aside")
    restore_folder(tmp_path / "policy", files=FILES)
    assert not (tmp_path / "policy").exists()
    (tmp_path / "aside").rename(old / FILES[1])
    restore_folder(tmp_path / "policy", files=FILES)
    assert read(tmp_path / "policy") == {"one"}
