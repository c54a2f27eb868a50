"""A twin's folder on disk: found by name, read without trust, written beside and renamed.

A save writes `.name.*.new`, renames what was there to `.name.*.old`, renames the new one to `name`, and removes the
old one. A process killed between the two renames leaves only the old one: the next load or save puts it back.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load, save
from torch import Tensor

from world_env.bundled_twins import FOLDER as BUNDLED
from world_env.errors import (
    InvalidOptionError,
    TwinBusyError,
    TwinFormatError,
    TwinNotFoundError,
    TwinSaveError,
    TwinVersionError,
)
from world_env.twin.image_compression import packed_images, unpacked_images
from world_env.types import JSON

FORMAT = 3
"""The newest folder format that this version writes and reads. 3: images are compressed."""


"""The twins that come with the package."""

FILES = ("weights.safetensors", "starts.safetensors")


def list_twins() -> list[str]:
    """The names of the bundled twins."""
    if not BUNDLED.is_dir():
        return []
    return sorted(folder.name for folder in BUNDLED.iterdir() if (folder / "twin.json").is_file())


def find_twin(name: str | Path) -> Path:
    """The folder of a twin. Raises TwinNotFoundError, TwinFormatError, InvalidOptionError for no name and no path."""
    if not isinstance(name, str | os.PathLike):
        raise InvalidOptionError(
            f"a twin is named by a str or a Path, got {type(name).__name__}: {name!r:.80}"
        )
    text = os.fspath(name)
    is_path = not isinstance(name, str) or os.sep in text or "/" in text
    folder = Path(text).expanduser() if is_path else BUNDLED / text
    is_name = not is_path and re.fullmatch(r"[A-Za-z0-9_-]+", text) is not None
    if is_path or is_name:
        put_back(folder)
    if not is_path and not (is_name and (folder / "twin.json").is_file()):
        hint = f" For the folder of that name write './{text}'." if Path(text).is_dir() else ""
        raise TwinNotFoundError(
            f"no twin {text!r}: the bundled ones are {', '.join(list_twins()) or 'none'}.{hint} "
            "Train one with `world-env build ENV_ID`, or list them with `world-env twins`."
        )
    if not folder.is_dir():
        raise TwinNotFoundError(
            f"no twin at {folder}: there is no such folder. Bundled: {', '.join(list_twins())}"
        )
    if not (folder / "twin.json").is_file():
        raise TwinFormatError(
            f"{folder} is no twin: it has no twin.json (it holds {sorted(os.listdir(folder))[:6]}). "
            "A twin is the folder that `world-env fit` or Twin.save wrote."
        )
    return folder


_TYPES: dict[str, tuple[type, ...]] = {
    "format": (int,),
    "family": (str,),
    "config": (dict,),
    "spec": (dict,),
    "ranges": (dict, type(None)),
    "termination_threshold": (int, float),
    "uncertainty_threshold": (int, float, type(None)),
    "known": (list,),
    "provenance": (dict,),
    "fidelity": (dict,),
    "files": (dict,),
}


def read_json(folder: Path) -> JSON:
    """The checked content of a twin's twin.json. Raises TwinFormatError, TwinVersionError."""
    path = folder / "twin.json"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"), parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise TwinFormatError(f"{path} is not valid JSON ({error}): the file is damaged") from error
    if not isinstance(tree, dict) or "format" not in tree:
        raise TwinFormatError(f"{path} has no 'format' field: it does not describe a twin")
    if isinstance(tree["format"], int) and tree["format"] > FORMAT:
        raise TwinVersionError(
            f"{path} has format {tree['format']}, this version of world-env reads up to {FORMAT}: "
            "upgrade with `pip install -U world-env`"
        )
    for name, types in _TYPES.items():
        if name not in tree or not isinstance(tree[name], types) or isinstance(tree[name], bool):
            got = repr(tree[name])[:80] if name in tree else "nothing"
            raise TwinFormatError(
                f"{path}: field {name!r} should be {types[0].__name__}, got {got}"
            )
    low, high = tree["termination_threshold"], tree["uncertainty_threshold"]
    if not 0.0 <= low <= 1.0:
        raise TwinFormatError(
            f"{path}: field 'termination_threshold' is {low}, expected a probability in 0..1"
        )
    # 1e999 is strict JSON, and infinite.
    if high is not None and not (math.isfinite(high) and high >= 0.0):
        raise TwinFormatError(
            f"{path}: field 'uncertainty_threshold' is {high}, expected a finite number >= 0, or null"
        )
    if tree["format"] < 1:
        raise TwinFormatError(f"{path}: field 'format' is {tree['format']}, formats start at 1")
    if any(known not in ("reward", "termination") for known in tree["known"]):
        raise TwinFormatError(
            f"{path}: field 'known' is {tree['known']!s:.80}, expected 'reward' and 'termination' at most"
        )
    if set(tree["files"]) != set(FILES):
        raise TwinFormatError(
            f"{path} lists the files {sorted(tree['files'])}, a twin has exactly {sorted(FILES)}: "
            "a twin never reads outside its folder"
        )
    return tree


def _reject_constant(text: str) -> float:
    raise ValueError(f"{text} is not strict JSON")


def read_tensors(folder: Path, name: str, tree: JSON) -> dict[str, Tensor]:
    """One checked safetensors file of a twin. Raises TwinFormatError."""
    path = folder / name
    if not path.is_file() or path.is_symlink():
        raise TwinFormatError(
            f"{path} is missing (or a link): a twin is a folder with {', '.join(FILES)}"
        )
    blob = path.read_bytes()
    digest = hashlib.sha256(blob).hexdigest()
    if digest != tree["files"][name]:
        raise TwinFormatError(
            f"{path} is damaged: its sha256 is {digest[:12]}..., twin.json says {str(tree['files'][name])[:12]}... "
            f"({len(blob)} bytes). Copy the twin again, or fit it again."
        )
    try:
        return _with_images(load(blob))
    except (
        Exception
    ) as error:  # safetensors raises its own class, which is not part of its stable interface
        raise TwinFormatError(f"{path} is no readable safetensors file: {error}") from error


def dump_tensors(tensors: dict[str, Tensor]) -> bytes:
    """A safetensors file of tensors on the CPU; images as streams (`world_env.twin.image_compression`)."""
    images = {key: value.numpy() for key, value in tensors.items() if value.dtype is torch.uint8}
    rest = {key: value for key, value in tensors.items() if key not in images}
    return save(rest | {key: torch.tensor(value) for key, value in packed_images(images).items()})


def _with_images(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if not any(value.dtype is torch.uint8 for value in tensors.values()):
        return tensors
    # numpy has no bfloat16: only what belongs to images goes through it.
    whole = {torch.uint8, torch.int64}
    packed = {key: value.numpy() for key, value in tensors.items() if value.dtype in whole}
    rest = {key: value for key, value in tensors.items() if key not in packed}
    return rest | {key: torch.tensor(value) for key, value in unpacked_images(packed).items()}


def write_bytes(path: Path, blob: bytes) -> None:
    """Write a file and wait until it is on disk."""
    with path.open("wb") as file:
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Keep other processes from saving this twin.

    The lock ends with its process, so a killed process leaves nothing to clean up. Raises TwinBusyError.
    """
    lock = FileLock(target.parent / f".{target.name}.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise TwinBusyError(
            f"another process is saving {target} right now: wait for it, or save to another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _left_behind(target: Path, suffix: str) -> list[Path]:
    """The folders that saves of this target made and did not remove, the newest last."""
    # Eight characters are mkdtemp's: another twin's name may begin with this one's.
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}\.{suffix}")
    if not target.parent.is_dir():
        return []
    found = [path for path in target.parent.iterdir() if pattern.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.lstat().st_mtime_ns)


def _is_whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("twin.json", *FILES))


def put_back(target: Path) -> None:
    """Give a missing twin back the folder that a killed save had moved aside; does nothing else.

    While another process saves, or where the folder may not be changed, nothing happens.
    """
    try:
        target = target.resolve()
        if target.exists() or not _left_behind(target, "old"):
            return
        with locked(target):
            _adopt(target)
    except (OSError, ValueError):
        # Only reading was asked for: whoever called says that there is no twin. ValueError: a path with a null byte.
        return


def _adopt(target: Path) -> None:
    whole = [path for path in _left_behind(target, "old") if _is_whole(path)]
    if whole and not target.exists():
        whole[-1].rename(target)


def tidy(target: Path) -> None:
    """Put back or remove what killed saves left. Only for who holds the lock: all of it belongs to the dead."""
    _adopt(target)
    done = _left_behind(target, "old") if (target / "twin.json").is_file() else []
    for folder in (*done, *_left_behind(target, "new")):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A fresh folder beside the target, removed unless it was renamed away."""
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".new", dir=target.parent))
    try:
        fresh.chmod(0o755)
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def swap(fresh: Path, target: Path) -> None:
    """Put the finished folder in place; only a twin is ever replaced, and it comes back where that fails."""
    if (
        target.exists()
        and not (target / "twin.json").is_file()
        and (target.is_file() or any(target.iterdir()))
    ):
        raise TwinSaveError(
            f"{target} exists and is no twin: it is not overwritten. Choose another folder, or remove it first."
        )
    if not target.exists():
        fresh.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    try:
        target.rename(old)
    except OSError:
        with suppress(OSError):
            old.rmdir()
        raise
    try:
        fresh.rename(target)
    except BaseException as error:
        try:
            old.rename(target)
        except OSError:
            raise TwinSaveError(
                f"cannot put the new twin in place ({error}), nor the old one back: it lies whole at {old}. "
                f"Rename it to {target}, or load or save {target} again once it can be written."
            ) from error
        raise
    shutil.rmtree(old, ignore_errors=True)
