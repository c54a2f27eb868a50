"""A twin's folder on disk: found by name, read without trust, written beside and renamed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load as load_tensors
from torch import Tensor

from world_env.errors import (
    TwinBusyError,
    TwinFormatError,
    TwinNotFoundError,
    TwinSaveError,
    TwinVersionError,
)
from world_env.spec import JSON

FORMAT = 1
"""The newest folder format that this version writes and reads."""

BUNDLED = Path(__file__).parent / "twins"
"""The twins that come with the package."""

FILES = ("weights.safetensors", "starts.safetensors")


def list_twins() -> list[str]:
    """The names of the bundled twins."""
    if not BUNDLED.is_dir():
        return []
    return sorted(folder.name for folder in BUNDLED.iterdir() if (folder / "twin.json").is_file())


def find_twin(name: str | Path) -> Path:
    """The folder of a twin. Raises TwinNotFoundError, TwinFormatError."""
    text = os.fspath(name)
    is_path = isinstance(name, Path) or os.sep in text or "/" in text
    folder = Path(text).expanduser() if is_path else BUNDLED / text
    if not is_path and (
        not re.fullmatch(r"[A-Za-z0-9_-]+", text) or not (folder / "twin.json").is_file()
    ):
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
        return load_tensors(blob)
    except (
        Exception
    ) as error:  # safetensors raises its own class, which is not part of its stable interface
        raise TwinFormatError(f"{path} is no readable safetensors file: {error}") from error


def write_bytes(path: Path, blob: bytes) -> None:
    """Write a file and wait until it is on disk."""
    with path.open("wb") as file:
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """One writer a twin. The lock dies with its process, so a kill leaves nothing to clean up."""
    try:
        import fcntl
    except ImportError:  # Windows: renaming is still atomic there, the last writer wins
        yield
        return
    with (target.parent / f".{target.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TwinBusyError(
                f"another process is saving {target} right now: wait for it, or save to another folder"
            ) from error
        yield


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
    """Put the finished folder in place; only a twin is ever replaced."""
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
    target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
