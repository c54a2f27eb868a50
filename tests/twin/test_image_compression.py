"""Images as streams: nothing is lost, what was never packed passes, what is broken is refused by name."""

import dataclasses
import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tests.models.test_rssm import SMALL, spec_of
from world_env import Twin
from world_env.batch import Context
from world_env.data.episode import Episode
from world_env.data.store import EpisodeStore
from world_env.errors import DataError, TwinFormatError
from world_env.twin.image_compression import packed_images, unpacked_images


def pictures(steps: int) -> np.ndarray:
    """(steps, 12, 10, 3): a dot that wanders over white."""
    drawn = np.full((steps, 12, 10, 3), 255, np.uint8)
    drawn[np.arange(steps), np.arange(steps) % 12, np.arange(steps) % 10] = 7
    return drawn


def test_nothing_is_lost_and_only_images_change() -> None:
    arrays = {
        "seen": pictures(50),
        "codes": np.arange(6, dtype=np.uint8),
        "numbers": np.ones((3, 4, 5), np.float32),
        "none": np.zeros((0, 4, 4), np.uint8),
    }
    packed = packed_images(arrays)
    assert set(packed) == {
        "zlib:seen", "shape:seen", "zlib:none", "shape:none", "codes", "numbers",
    }  # fmt: skip
    assert packed["zlib:seen"].nbytes < arrays["seen"].nbytes / 20
    whole = unpacked_images(packed)
    assert set(whole) == set(arrays)
    for key, value in arrays.items():
        assert whole[key].dtype == value.dtype
        assert np.array_equal(whole[key], value)
    whole["seen"][0] = 0  # what is read back can be written to
    assert np.array_equal(unpacked_images(arrays)["seen"], arrays["seen"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shape:seen": None}, "no valid tensor"),
        ({"shape:seen": np.array([50, 12, 10, 4])}, "24000 bytes, their stream has another size"),
        ({"shape:seen": np.array([49, 12, 10, 3])}, "17640 bytes, their stream has another size"),
        ({"shape:seen": np.array([2**40, 2**40, 2**40])}, "more than a stream of [0-9]+ can hold"),
        ({"shape:seen": np.array([-50, -12, 10, 3])}, "no valid tensor"),
        ({"zlib:seen": np.arange(200, dtype=np.uint8)}, "not a valid zlib stream"),
        (
            {"zlib:seen": np.frombuffer(zlib.compress(bytes(10**7)), np.uint8)},
            "18000 bytes, their stream has another size",
        ),
    ],
)
def test_broken_streams_are_refused(change: dict[str, np.ndarray | None], said: str) -> None:
    packed = packed_images({"seen": pictures(50)}) | change
    with pytest.raises(ValueError, match=said):
        unpacked_images({key: value for key, value in packed.items() if value is not None})


def test_a_store_of_pictures_is_small_and_an_older_one_is_read(tmp_path: Path) -> None:
    spec = spec_of("grey")
    size = spec.observation_space.shape or ()
    seen = np.full((41, *size), 255, np.uint8)
    seen[np.arange(41), np.arange(41) % size[0]] = 3
    actions = np.zeros((40, *(spec.action_space.shape or ())), spec.action_space.dtype)
    episode = Episode(seen, actions, np.zeros(40, np.float32), False, True)
    store = EpisodeStore.create(tmp_path / "data", spec)
    store.append([episode])
    shard = tmp_path / "data" / "episodes-00000.safetensors"
    assert shard.stat().st_size < seen.nbytes / 5
    assert np.array_equal(
        EpisodeStore(tmp_path / "data").load()[0].observation_columns()["observation"], seen
    )

    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    save_file(unpacked_images(load_file(shard)), shard)
    manifest["shards"][0]["sha256"] = hashlib.sha256(shard.read_bytes()).hexdigest()
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest | {"format": 1}))
    old = EpisodeStore(tmp_path / "data")
    assert old.load()[0].digest() == episode.digest()
    old.append([episode])  # now it is of both kinds, and says that an older version cannot read it
    assert json.loads((tmp_path / "data" / "manifest.json").read_text())["format"] == 2
    assert [each.digest() for each in EpisodeStore(tmp_path / "data").load()] == [
        episode.digest()
    ] * 2

    flat = load_file(shard := tmp_path / "data" / "episodes-00001.safetensors")
    save_file(flat | {"zlib:observation": flat["zlib:observation"][:-4]}, shard)
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    manifest["shards"][1]["sha256"] = hashlib.sha256(shard.read_bytes()).hexdigest()
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"damaged.*observation"):
        EpisodeStore(tmp_path / "data").load()


def test_a_twins_pictures_are_packed_in_its_folder(tmp_path: Path) -> None:
    drawn = torch.full((100, 1, 1, 16, 16), 255, dtype=torch.uint8)
    drawn[torch.arange(100), 0, 0, torch.arange(100) % 16] = 3
    starts = Context.from_observation({"observation": drawn[:, 0]}, 2)
    twin = dataclasses.replace(Twin.untrained(spec_of("grey"), "rssm", SMALL), starts=starts)
    loaded = Twin.load(twin.save(tmp_path / "twin"))
    after = loaded.starts.observations["observation"]
    assert after.dtype == torch.uint8
    assert torch.equal(after, drawn)
    path = tmp_path / "twin" / "starts.safetensors"
    assert path.stat().st_size < drawn.numel() / 4

    flat = load_file(path)
    name = "zlib:starts.observations.observation"
    save_file(flat | {name: flat[name][:-4]}, path)
    described = json.loads((tmp_path / "twin" / "twin.json").read_text())
    described["files"]["starts.safetensors"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "twin" / "twin.json").write_text(json.dumps(described))
    with pytest.raises(TwinFormatError, match=r"images 'starts\.observations\.observation'"):
        Twin.load(tmp_path / "twin")
