"""Files and folders that are replaced in one move."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from world_env.errors import StageError
from world_env.types import JSON


class FolderError(OSError):
    """A folder was not replaced. The message is complete."""


class FolderBusyError(FolderError):
    """Another process is replacing the same folder."""


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path in the folder of `path`, renamed to `path` when the block ends without an error.

    The folder is created if it is missing. A process that is killed inside the block leaves the previous file.
    Raises StageError where the file cannot be written; the previous file is then unchanged.
    """
    path = Path(path)
    # The suffix stays: some writers choose the format by it.
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except StageError:
        raise
    except OSError as error:
        raise StageError(
            f"cannot write {path}: {error}. The previous file is unchanged. Free some disk space, or choose a folder "
            "that can be written."
        ) from error


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Replace a file. Raises StageError where it cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace a text file (UTF-8). Raises StageError where it cannot be written."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], tree: JSON) -> None:
    """Replace a file by strict JSON. Raises StageError, and ValueError for NaN or infinite values."""
    write_text(path, json.dumps(tree, indent=1, allow_nan=False) + "\n")


def check_target(target: Path, *, marker: str, noun: str) -> None:
    """Raise StageError, before the work, for a folder that `replaced_folder` could not replace after it.

    marker: name of the file that tells such a folder from others. noun: what the folder is, in messages.
    """
    try:
        _check_foreign(target, marker, noun)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except FolderError as error:
        raise StageError(str(error)) from error
    except OSError as error:
        raise StageError(
            f"cannot write a {noun} to {target}: {error}. Choose a writable folder."
        ) from error


@contextlib.contextmanager
def replaced_folder(
    target: str | os.PathLike[str], *, files: Sequence[str], noun: str
) -> Iterator[Path]:
    """A temporary folder beside `target`, which replaces it when the block ends without an error.

    The block writes `.NAME.*.new`. Then an existing folder NAME is renamed to `.NAME.*.old`, the new one to NAME, and
    the old one is removed. If the process is killed between the two renames, the next call for this folder, or
    `restore_folder`, restores the old one.

    files: names of the files of a whole folder. A folder without the first of them is replaced only if it is empty.
    noun: what the folder is, in messages.
    Raises FolderBusyError while another process replaces the folder, FolderError for a folder that holds something else
    or that cannot be restored, and OSError. The existing folder is then unchanged.
    """
    target = Path(target).resolve()
    with folder_lock(target, noun):
        _restore_old(target, files)
        replaced = _left_behind(target, "old") if (target / files[0]).is_file() else []
        for folder in (*replaced, *_left_behind(target, "new")):
            shutil.rmtree(folder, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".new", dir=target.parent))
        try:
            fresh.chmod(0o755)
            yield fresh
            _swap(fresh, target, files[0], noun)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def restore_folder(target: Path, *, files: Sequence[str]) -> None:
    """Restore a folder that an interrupted `replaced_folder` had renamed.

    Has no effect if the folder exists, while another process replaces it, or without permission to write.
    """
    try:
        target = target.resolve()
        if target.exists() or not _left_behind(target, "old"):
            return
        with folder_lock(target, "folder"):
            _restore_old(target, files)
    except (OSError, ValueError):
        # The caller reports a missing folder. ValueError: a path with a null byte.
        return


@contextlib.contextmanager
def folder_lock(target: Path, noun: str) -> Iterator[None]:
    """Lock a folder against writes by other processes.

    The operating system releases the lock of a killed process. Raises FolderBusyError if it is taken, FolderError for
    a place that cannot be written.
    """
    lock = FileLock(target.parent / f".{target.name}.lock", blocking=False)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise FolderBusyError(
            f"another process is writing the {noun} {target}: wait until it has finished, or save to another folder"
        ) from error
    except OSError as error:
        raise FolderError(
            f"cannot write the {noun} {target}: {error}. Choose a folder that can be written."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _left_behind(target: Path, suffix: str) -> list[Path]:
    """Return temporary folders of interrupted replacements of this folder, the newest last."""
    # mkdtemp adds eight characters. A shorter pattern would match other folders whose name starts with this name.
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}\.{suffix}")
    if not target.parent.is_dir():
        return []
    found = [path for path in target.parent.iterdir() if pattern.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.lstat().st_mtime_ns)


def _restore_old(target: Path, files: Sequence[str]) -> None:
    whole = [
        path
        for path in _left_behind(target, "old")
        if all((path / name).is_file() for name in files)
    ]
    if whole and not target.exists():
        whole[-1].rename(target)


def _check_foreign(target: Path, marker: str, noun: str) -> None:
    if (
        target.exists()
        and not (target / marker).is_file()
        and (target.is_file() or any(target.iterdir()))
    ):
        raise FolderError(
            f"{target} exists and is not a {noun}, so it is not overwritten: save to another folder, or remove it first"
        )


def _swap(fresh: Path, target: Path, marker: str, noun: str) -> None:
    """Replace `target` by the folder `fresh`. On failure the old folder is restored."""
    _check_foreign(target, marker, noun)
    if not target.exists():
        fresh.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    try:
        target.rename(old)
    except OSError:
        with contextlib.suppress(OSError):
            old.rmdir()
        raise
    try:
        fresh.rename(target)
    except BaseException as error:
        try:
            old.rename(target)
        except OSError:
            raise FolderError(
                f"cannot rename the new {noun} to {target} ({error}) or restore the old one, which is complete "
                f"at {old}. Rename {old} to {target}, or load or save {target} again when the folder is writable."
            ) from error
        raise
    shutil.rmtree(old, ignore_errors=True)
