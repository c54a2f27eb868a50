"""Files that are replaced in one move."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from world_env.errors import StageError
from world_env.types import JSON


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
