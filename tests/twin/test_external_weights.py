"""Weights on the Hugging Face Hub: left out of the folder, checked, and errors that say what is missing."""

import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from oracle import real_spec
from safetensors.torch import load_file, save_file

from world_env.errors import (
    ExternalWeightsError,
    InvalidOptionError,
    MissingExtraError,
    TwinFormatError,
    TwinSaveError,
)
from world_env.twin.external_weights import ExternalWeights
from world_env.twin.twin import Twin


class Hub:
    """A repository in a folder, in place of the downloader."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.calls = folder, []
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self.download)

    def download(self, repo_id: str, filename: str, *, revision: str) -> str:
        self.calls.append((repo_id, filename, revision))
        return str(self.folder / filename)

    def publish(self, tensors: dict[str, torch.Tensor], **fields: Any) -> ExternalWeights:
        path = self.folder / "model.safetensors"
        save_file(tensors, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return ExternalWeights(hub="org/name", revision="v1.0", sha256=digest, **fields)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    (tmp_path / "hub").mkdir()
    return Hub(tmp_path / "hub", monkeypatch)


@pytest.fixture
def twin(hub: Hub) -> Twin:
    """A twin of which one layer lies on the hub."""
    plain = Twin.untrained(real_spec("CartPole-v1"), "linear")
    plain.model.change.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    layer = {name: value.clone() for name, value in plain.model.change.state_dict().items()}
    return dataclasses.replace(plain, external=(hub.publish(layer, prefix="change."),))


def edit(folder: Path, **fields: Any) -> None:
    path = folder / "twin.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    tree["external"][0] |= fields
    path.write_text(json.dumps(tree), encoding="utf-8")


def test_external_weights_are_left_out_of_the_folder_and_loaded(
    twin: Twin, hub: Hub, tmp_path: Path
) -> None:
    folder = twin.save(tmp_path / "twin")
    assert not {"change.weight", "change.bias"} & load_file(folder / "weights.safetensors").keys()
    hub.calls.clear()
    back = Twin.load(folder)
    assert hub.calls == [("org/name", "model.safetensors", "v1.0")]
    assert back.fingerprint() == twin.fingerprint() and back.external == twin.external
    assert Twin.load(back.save(tmp_path / "again")).fingerprint() == twin.fingerprint()


def test_all_weights_may_be_external(hub: Hub, tmp_path: Path) -> None:
    plain = Twin.untrained(real_spec("CartPole-v1"), "linear")
    whole = {name: value.clone() for name, value in plain.model.state_dict().items()}
    twin = dataclasses.replace(plain, external=(hub.publish(whole),))
    folder = twin.save(tmp_path / "twin")
    assert not load_file(folder / "weights.safetensors")
    assert Twin.load(folder).fingerprint() == plain.fingerprint()


def test_changed_weights_are_not_stored_as_external(twin: Twin, tmp_path: Path) -> None:
    twin.model.change.weight.data.add_(1.0)
    with pytest.raises(TwinSaveError, match=r"'change\.weight'.*org/name"):
        twin.save(tmp_path / "twin")


def test_another_file_than_the_expected_one_is_named(twin: Twin, hub: Hub, tmp_path: Path) -> None:
    folder = twin.save(tmp_path / "twin")
    hub.publish({"weight": torch.zeros(1)})
    with pytest.raises(TwinFormatError, match=r"org/name at v1\.0 has the SHA-256"):
        Twin.load(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hub": "name"}, "hub of external weights is 'name'"),
        ({"file": "model.bin"}, "file of external weights.*safetensors"),
        ({"sha256": "abc"}, "sha256 of external weights is 'abc'"),
        ({"branch": "main"}, "unknown field `branch`"),
        ({"revision": 3}, "Expected `str`, got `int`.*revision"),
    ],
)
def test_edited_entries_are_named(
    twin: Twin, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    folder = twin.save(tmp_path / "twin")
    edit(folder, **fields)
    with pytest.raises(TwinFormatError, match=message):
        Twin.load(folder)


def test_entries_are_checked_in_python_too() -> None:
    with pytest.raises(InvalidOptionError, match="revision of external weights is ''"):
        ExternalWeights(hub="org/name", revision="", sha256="0" * 64)


def test_without_a_connection_the_error_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    weights = ExternalWeights(hub="org/name", revision="v1.0", sha256="0" * 64)
    with pytest.raises(ExternalWeightsError, match=r"model\.safetensors.*org/name.*connection"):
        weights.read()


def test_without_the_package_the_error_has_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    weights = ExternalWeights(hub="org/name", revision="v1.0", sha256="0" * 64)
    with pytest.raises(MissingExtraError, match=r'pip install "world-env\[hub\]"'):
        weights.read()
