"""Folder of a twin: find it by name, read and check its files."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from world_env.atomic_io import restore_folder
from world_env.bundled_twins import FOLDER as BUNDLED
from world_env.errors import (
    InvalidOptionError,
    TwinFormatError,
    TwinNotFoundError,
    TwinVersionError,
)
from world_env.results.fidelity import Fidelity
from world_env.results.provenance import Provenance
from world_env.struct import Struct
from world_env.twin.image_compression import packed_images, unpacked_images
from world_env.types import JSON, TERMINATIONS

FORMAT = 3
"""Folder format that this version writes, and the newest that it reads. Since format 3 images are compressed."""

FILES = ("weights.safetensors", "starts.safetensors")
"""Tensor files of a twin."""
WHOLE = ("twin.json", *FILES)
"""Files of a whole twin."""


def list_twins() -> list[str]:
    """Return the names of the bundled twins."""
    if not BUNDLED.is_dir():
        return []
    return sorted(folder.name for folder in BUNDLED.iterdir() if (folder / "twin.json").is_file())


def find_twin(name: str | Path) -> Path:
    """Return the folder of a twin.

    name: a bundled twin, or a folder (a Path, or a str with a separator).
    Raises TwinNotFoundError, TwinFormatError if the folder is not a twin, InvalidOptionError for another type.
    """
    if not isinstance(name, str | os.PathLike):
        raise InvalidOptionError(
            f"twin must be a str or a Path, got {type(name).__name__}: {name!r:.80}"
        )
    text = os.fspath(name)
    is_path = not isinstance(name, str) or os.sep in text or "/" in text
    folder = Path(text).expanduser() if is_path else BUNDLED / text
    is_name = not is_path and re.fullmatch(r"[A-Za-z0-9_-]+", text) is not None
    if is_path or is_name:
        restore_folder(folder, files=WHOLE)
    if not is_path and not (is_name and (folder / "twin.json").is_file()):
        hint = f" For the folder of this name use './{text}'." if Path(text).is_dir() else ""
        raise TwinNotFoundError(
            f"no bundled twin {text!r}: expected one of {', '.join(list_twins()) or 'none'}, or a folder.{hint} "
            "Fit a twin with `world-env fit`, or run `world-env build ENV_ID`, or list the bundled ones with "
            "`world-env twins`."
        )
    if not folder.is_dir():
        raise TwinNotFoundError(
            f"no twin at {folder}: no such folder. Bundled twins: {', '.join(list_twins())}"
        )
    if not (folder / "twin.json").is_file():
        inside = (folder / "twin" / "twin.json").is_file()
        advice = (
            f"Did you mean {folder / 'twin'}?"
            if inside
            else "Pass a folder that was written by `world-env fit` or Twin.save."
        )
        raise TwinFormatError(f"{folder} is not a twin: it has no twin.json. {advice}")
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
    """Read and check the twin.json of a folder. Its provenance and fidelity are results, no JSON.

    Raises TwinFormatError or TwinVersionError.
    """
    path = folder / "twin.json"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"), parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise TwinFormatError(
            f"{path} is not valid JSON ({error}): the file is damaged, fit or copy the twin again"
        ) from error
    if not isinstance(tree, dict) or "format" not in tree:
        raise TwinFormatError(f"{path} has no field 'format': it is not a twin.json")
    if isinstance(tree["format"], int) and tree["format"] > FORMAT:
        raise TwinVersionError(
            f"{path} has format {tree['format']}, this version of world-env reads formats up to {FORMAT}: "
            "install a newer version of world-env"
        )
    for name, types in _TYPES.items():
        if name not in tree or not isinstance(tree[name], types) or isinstance(tree[name], bool):
            got = repr(tree[name])[:80] if name in tree else "nothing"
            raise TwinFormatError(f"{path}: field {name!r} must be {types[0].__name__}, got {got}")
    unknown = sorted(set(tree) - set(_TYPES) - {"external", "termination"})
    if unknown:
        raise TwinFormatError(f"{path} has the unknown field {unknown[0]!r}")
    low, high = tree["termination_threshold"], tree["uncertainty_threshold"]
    if not 0.0 <= low <= 1.0:
        raise TwinFormatError(
            f"{path}: field 'termination_threshold' is {low}, expected a probability in [0, 1]"
        )
    # 1e999 is strict JSON and is read as infinity.
    if high is not None and not (math.isfinite(high) and high >= 0.0):
        raise TwinFormatError(
            f"{path}: field 'uncertainty_threshold' is {high}, expected a finite number >= 0, or null"
        )
    if tree["format"] < 1:
        raise TwinFormatError(
            f"{path}: field 'format' is {tree['format']}, expected an integer >= 1"
        )
    if any(known not in ("reward", "termination") for known in tree["known"]):
        raise TwinFormatError(
            f"{path}: field 'known' is {tree['known']!s:.80}, expected a list of 'reward' and 'termination'"
        )
    if tree.get("termination", "threshold") not in TERMINATIONS:
        raise TwinFormatError(
            f"{path}: field 'termination' is {tree['termination']!r:.80}, expected one of "
            f"{', '.join(map(repr, TERMINATIONS))}"
        )
    if not isinstance(tree.get("external", []), list):
        raise TwinFormatError(
            f"{path}: field 'external' is {tree['external']!s:.80}, expected a list"
        )
    if set(tree["files"]) != set(FILES):
        raise TwinFormatError(
            f"{path}: field 'files' lists {sorted(tree['files'])}, expected {sorted(FILES)}: "
            "a twin never reads files outside its folder"
        )
    results: dict[str, type[Struct]] = {"provenance": Provenance, "fidelity": Fidelity}
    for name, result in results.items():
        where = f"{path}: field {name!r}"
        tree[name] = result.from_json(tree[name], where=where, error=TwinFormatError)
    return tree


def _reject_constant(text: str) -> float:
    raise ValueError(f"{text} is not strict JSON")


def read_tensors(folder: Path, name: str, tree: JSON) -> dict[str, Tensor]:
    """Read a safetensors file of a twin, after a check of its SHA-256. Raises TwinFormatError."""
    path = folder / name
    if not path.is_file() or path.is_symlink():
        raise TwinFormatError(
            f"{path} is missing or a link: the folder of a twin must contain {', '.join(FILES)}"
        )
    blob = path.read_bytes()
    digest = hashlib.sha256(blob).hexdigest()
    if digest != tree["files"][name]:
        raise TwinFormatError(
            f"{path} is damaged: the SHA-256 of its {len(blob)} bytes is {digest[:12]}..., twin.json expects "
            f"{str(tree['files'][name])[:12]}.... Copy the twin again, or fit it again."
        )
    try:
        return _with_images(load(blob))
    except Exception as error:
        # The exception class of safetensors is not part of its stable interface.
        raise TwinFormatError(f"{path} is not a readable safetensors file: {error}") from error


def dump_tensors(tensors: dict[str, Tensor]) -> bytes:
    """Serialize CPU tensors as a safetensors file, with compressed images (`world_env.twin.image_compression`)."""
    images = {key: value.numpy() for key, value in tensors.items() if value.dtype is torch.uint8}
    rest = {key: value for key, value in tensors.items() if key not in images}
    return save(rest | {key: torch.tensor(value) for key, value in packed_images(images).items()})


def _with_images(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if not any(value.dtype is torch.uint8 for value in tensors.values()):
        return tensors
    # numpy has no bfloat16: convert only the types that compressed images have.
    image_types = {torch.uint8, torch.int64}
    packed = {key: value.numpy() for key, value in tensors.items() if value.dtype in image_types}
    rest = {key: value for key, value in tensors.items() if key not in packed}
    return rest | {key: torch.tensor(value) for key, value in unpacked_images(packed).items()}


def write_bytes(path: Path, blob: bytes) -> None:
    """Write a file and flush it to disk."""
    with path.open("wb") as file:
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())
