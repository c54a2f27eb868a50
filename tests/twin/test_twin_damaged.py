"""A twin that was damaged or edited on disk is refused, and what is wrong is named."""

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import real_spec
from safetensors.torch import load as load_tensors, save as dump_tensors
from small_twin import SMALL, small

from world_env.errors import (
    KnownFunctionError,
    TwinFormatError,
    TwinMismatchError,
    TwinVersionError,
    UnknownFamilyError,
)
from world_env.twin.twin import Twin


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "twin.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(folder: Path, name: str, blob: bytes) -> None:
    """Replace a file and its checksum, as a careful forger would."""
    (folder / name).write_bytes(blob)
    files = json.loads((folder / "twin.json").read_text())["files"]
    edit(folder, files={**files, name: hashlib.sha256(blob).hexdigest()})


def truncate(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def flip(folder: Path) -> None:
    blob = bytearray((folder / "weights.safetensors").read_bytes())
    blob[-5] ^= 1
    (folder / "weights.safetensors").write_bytes(bytes(blob))


def huge_header(folder: Path) -> None:
    rewrite(folder, "weights.safetensors", struct.pack("<Q", 1 << 62) + b"{}")


def forged_truncation(folder: Path) -> None:
    rewrite(folder, "starts.safetensors", (folder / "starts.safetensors").read_bytes()[:-8])


def empty(folder: Path) -> None:
    rewrite(folder, "weights.safetensors", b"")


def missing(folder: Path) -> None:
    (folder / "starts.safetensors").unlink()


def link(folder: Path) -> None:
    (folder / "weights.safetensors").rename(folder.parent / "elsewhere")
    (folder / "weights.safetensors").symlink_to(folder.parent / "elsewhere")


def nan_weights(folder: Path) -> None:
    twin = small()
    next(iter(twin.model.parameters())).data.fill_(float("nan"))
    twin.save(folder)


def infinite_threshold(folder: Path) -> None:
    text = (folder / "twin.json").read_text()
    text = text.replace('"uncertainty_threshold": null', '"uncertainty_threshold": 1e999')
    (folder / "twin.json").write_text(text)


def other_starts(**changed: Any) -> Callable[[Path], None]:
    """Damage: parts of the starts replaced, with the right checksum."""

    def damage(folder: Path) -> None:
        starts = load_tensors((folder / "starts.safetensors").read_bytes())
        starts |= {f"starts.{name.replace('__', '.')}": value for name, value in changed.items()}
        rewrite(folder, "starts.safetensors", dump_tensors(starts))

    return damage


def cut_json(folder: Path) -> None:
    (folder / "twin.json").write_text((folder / "twin.json").read_text()[:-30])


def nan_json(folder: Path) -> None:
    text = (folder / "twin.json").read_text()
    text = text.replace('"termination_threshold": 0.5', '"termination_threshold": NaN')
    (folder / "twin.json").write_text(text)


def deep_json(folder: Path) -> None:
    (folder / "twin.json").write_text("[" * 100_000)


def binary_json(folder: Path) -> None:
    (folder / "twin.json").write_bytes(b"\xff\xfe\x00")


def escape(folder: Path) -> None:
    files = json.loads((folder / "twin.json").read_text())["files"]
    edit(folder, files={**files, "../../secret.safetensors": "0"})


def escape_instead(folder: Path) -> None:
    edit(folder, files={"../weights.safetensors": "0", "/etc/passwd": "0"})


def no_json(folder: Path) -> None:
    (folder / "twin.json").unlink()


DAMAGE: list[tuple[Callable[[Path], None], type[Exception], str]] = [
    (truncate, TwinFormatError, "damaged"),
    (flip, TwinFormatError, "damaged"),
    (huge_header, TwinFormatError, "safetensors"),
    (forged_truncation, TwinFormatError, "safetensors"),
    (empty, TwinFormatError, "safetensors"),
    (missing, TwinFormatError, "missing"),
    (link, TwinFormatError, "link"),
    (nan_weights, TwinFormatError, "non-finite"),
    (infinite_threshold, TwinFormatError, "uncertainty_threshold.*inf"),
    (other_starts(observations__observation=torch.full((1, 1, 4), torch.nan)), TwinFormatError, "finite floats.*NaN"),
    (other_starts(observations__observation=torch.zeros(2, 1, 4)), TwinFormatError, r"\(2, 1, 4\)"),
    (other_starts(observations__observation=torch.zeros(1, 1, 4).long()), TwinFormatError, "int64"),
    (other_starts(actions=torch.zeros(1, 2, 2)), TwinFormatError, "'actions'"),
    (other_starts(length=torch.tensor([2])), TwinFormatError, "up to 2 observations, but starts has 1"),
    (other_starts(length=torch.tensor([0])), TwinFormatError, "at least 1"),
    (other_starts(length=torch.tensor([1.0])), TwinFormatError, "int64"),
    (other_starts(length=torch.tensor(1)), TwinFormatError, "one entry"),
    (other_starts(elapsed=torch.tensor([-3])), TwinFormatError, "smallest value -3"),
    (other_starts(elapsed=torch.tensor([0, 0])), TwinFormatError, "'elapsed'"),
    (cut_json, TwinFormatError, "JSON"),
    (nan_json, TwinFormatError, "NaN"),
    (deep_json, TwinFormatError, "JSON"),
    (binary_json, TwinFormatError, "JSON"),
    (escape, TwinFormatError, "outside its folder"),
    (escape_instead, TwinFormatError, "outside its folder"),
    (no_json, TwinFormatError, "is not a twin"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "error", "message"), DAMAGE, ids=lambda part: getattr(part, "__name__", str(part))
)
def test_damage_is_named(
    folder: Path, damage: Callable[[Path], None], error: type[Exception], message: str
) -> None:
    damage(folder)
    with pytest.raises(error, match=message):
        Twin.load(folder)


EDITS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"format": 99}, TwinVersionError, "99.*up to 3"),
    ({"format": "1"}, TwinFormatError, "format"),
    ({"format": 0}, TwinFormatError, "format"),
    ({"format": True}, TwinFormatError, "format"),
    ({"family": "os"}, UnknownFamilyError, "linear"),
    ({"family": "os:system"}, UnknownFamilyError, "expected one of .*linear"),
    ({"config": {"members": 2, "width": 16, "layers": 1, "head_width": 8}}, TwinMismatchError, "disagree"),
    ({"config": {"members": 1}}, TwinFormatError, "members"),
    ({"config": {"depth": 3}}, TwinFormatError, "depth"),
    ({"config": {"width": "wide"}}, TwinFormatError, "wide"),
    ({"config": {"width": -3}}, TwinFormatError, "config"),
    ({"colour": "red"}, TwinFormatError, "unknown field 'colour'"),
    ({"spec": {}}, TwinFormatError, "fields"),
    ({"spec": real_spec("Pendulum-v1").to_json()}, TwinMismatchError, "disagree"),
    ({"known": ["luck"]}, TwinFormatError, "luck"),
    ({"known": [{}]}, TwinFormatError, "known"),
    ({"known": ["reward"]}, KnownFunctionError, "reward_fn="),
    ({"ranges": {}}, TwinFormatError, "range"),
    ({"ranges": {"observation": {"observation": [[0], [1]]}, "reward": [0, 1], "action": None}},
     TwinFormatError, "range"),
    ({"ranges": {"observation": {"observation": [["nan"] * 4, [1] * 4]}, "reward": [0, 1], "action": None}},
     TwinFormatError, "range of 'observation'.*nan"),
    ({"ranges": {"observation": {"observation": [[0, 0, 2, 0], [1] * 4]}, "reward": [0, 1], "action": None}},
     TwinFormatError, r"\[2.0, 1.0\].*low <= high"),
    ({"ranges": {"observation": {}, "reward": [1, 0], "action": None}}, TwinFormatError, "range of 'reward'"),
    ({"ranges": {"observation": {}, "reward": ["-inf", 0], "action": None}}, TwinFormatError, "-inf"),
    ({"ranges": {"observation": {}, "reward": [0, 1], "action": [[1, 1], [0, 2]]}}, TwinFormatError, "'action'"),
    ({"termination_threshold": 7.0}, TwinFormatError, "termination_threshold.*7.0.*\\[0, 1\\]"),
    ({"termination_threshold": -1}, TwinFormatError, "termination_threshold"),
    ({"uncertainty_threshold": -0.5}, TwinFormatError, "uncertainty_threshold.*-0.5"),
    ({"termination_threshold": "high"}, TwinFormatError, "termination_threshold"),
    ({"uncertainty_threshold": []}, TwinFormatError, "uncertainty_threshold"),
    ({"provenance": None}, TwinFormatError, "provenance"),
    ({"provenance": {"stepz": 3}}, TwinFormatError, r"twin\.json: field 'provenance': .*`stepz`"),
    ({"provenance": {"steps": "many"}}, TwinFormatError, r"field 'provenance': .*`int . null`.*\$\.steps"),
    ({"provenance": {"real": {"kwargs": {}}}}, TwinFormatError, r"field 'provenance': .*env_id"),
    ({"fidelity": {"open_lop": {}}}, TwinFormatError, r"twin\.json: field 'fidelity': .*`open_lop`"),
    ({"fidelity": {"termination": {"precision": 1}}}, TwinFormatError,
     r"field 'fidelity': .*missing required field `terminal_labels` - at `\$\.termination`"),
    ({"fidelity": {"reward_error": "small"}}, TwinFormatError, r"field 'fidelity': .*reward_error"),
    ({"fidelity": {"open_loop": {"unit": "m", "error": [1.0], "hold_last": [], "windows": 2}}}, TwinFormatError,
     r"field 'fidelity': .*hold_last of OpenLoopErrors has 0 entries, expected 1"),
    ({"files": {}}, TwinFormatError, "files"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "error", "message"), EDITS, ids=[str(e[0])[:40] for e in EDITS]
)
def test_edits_are_named(
    folder: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    edit(folder, **changes)
    with pytest.raises(error, match=message):
        Twin.load(folder)


def test_starts_of_another_world(folder: Path, tmp_path: Path) -> None:
    other = Twin.untrained(real_spec("Pendulum-v1"), config=SMALL).save(tmp_path / "other")
    rewrite(folder, "starts.safetensors", (other / "starts.safetensors").read_bytes())
    with pytest.raises(TwinMismatchError, match="starts"):
        Twin.load(folder)
