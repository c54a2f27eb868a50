"""Twins on disk: whole or refused by name, and never half written."""

import dataclasses
import hashlib
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import CartPoleOracle, OracleConfig, oracle_twin, real_spec
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors

import world_env.folder as folder_module
import world_env.twin as twin_module
from world_env.errors import (
    InvalidOptionError,
    KnownFunctionError,
    TwinBusyError,
    TwinFormatError,
    TwinMismatchError,
    TwinNotFoundError,
    TwinSaveError,
    TwinVersionError,
    UnknownFamilyError,
)
from world_env.folder import find_twin, list_twins
from world_env.models.ensemble import EnsembleConfig
from world_env.simulator import Simulator
from world_env.spec import DataRange
from world_env.twin import Twin, load_cached

SMALL = EnsembleConfig(members=2, width=8, layers=1, head_width=8)


def small(seed: int = 0) -> Twin:
    return Twin.untrained(real_spec("CartPole-v1"), config=SMALL, seed=seed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small().save(tmp_path / "twin")


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "twin.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(folder: Path, name: str, blob: bytes) -> None:
    """Replace a file and its checksum, as a careful forger would."""
    (folder / name).write_bytes(blob)
    files = json.loads((folder / "twin.json").read_text())["files"]
    edit(folder, files={**files, name: hashlib.sha256(blob).hexdigest()})


def test_a_twin_comes_back_whole(tmp_path: Path, real_id: str) -> None:
    twin = oracle_twin(real_id, noise=0.01)
    ranges = DataRange({"observation": ([-5.0] * 4, [5.0] * 4)}, (0.0, 1.0))
    full = Twin(
        twin.spec,
        twin.family,
        twin.model,
        twin.starts,
        states=twin.starts,
        ranges=ranges if real_id.startswith("Cart") else None,
        termination_threshold=0.3,
        uncertainty_threshold=1.5,
        provenance={"steps": 7},
        fidelity={"error": 0.5},
    )
    back = Twin.load(full.save(tmp_path / "deep" / "twin"))
    for name in ("spec", "family", "ranges", "provenance", "fidelity"):
        assert getattr(back, name) == getattr(full, name)
    assert back.termination_threshold == 0.3 and back.uncertainty_threshold == 1.5
    assert back.model.config == full.model.config and not back.model.training
    simulators = [Simulator(one, 5, seed=1) for one in (full, back)]
    first, second = (one.reset() for one in simulators)
    np.testing.assert_array_equal(first, second)
    actions = np.stack([twin.spec.action_space.sample() for _ in range(5)])
    first, second = (one.step(actions).observation for one in simulators)
    np.testing.assert_array_equal(first, second)


def test_untrained_twins_are_seeded_and_leave_the_global_generator_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    first, again, other = small(0), small(0), small(1)
    Twin.load(first.save(tmp_path / "twin"))
    assert torch.equal(before, torch.get_rng_state())
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
    names = dict(other.model.named_parameters())
    assert any(not torch.equal(p, names[name]) for name, p in first.model.named_parameters())


def test_the_folder_is_strict_json_and_holds_nothing_executable(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "card.md",
        "starts.safetensors",
        "twin.json",
        "weights.safetensors",
    ]
    json.loads((folder / "twin.json").read_text(), parse_constant=pytest.fail)


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
    (other_starts(observations__observation=torch.full((1, 1, 4), torch.nan)), TwinFormatError, "finite"),
    (other_starts(observations__observation=torch.zeros(2, 1, 4)), TwinFormatError, r"\(2, 1, 4\)"),
    (other_starts(observations__observation=torch.zeros(1, 1, 4).long()), TwinFormatError, "int64"),
    (other_starts(actions=torch.zeros(1, 2, 2)), TwinFormatError, "'actions'"),
    (other_starts(length=torch.tensor([2])), TwinFormatError, "2 observations, but they hold 1"),
    (other_starts(length=torch.tensor([0])), TwinFormatError, "at least 1"),
    (other_starts(length=torch.tensor([1.0])), TwinFormatError, "int64"),
    (other_starts(length=torch.tensor(1)), TwinFormatError, "one entry"),
    (other_starts(elapsed=torch.tensor([-3])), TwinFormatError, "down to -3"),
    (other_starts(elapsed=torch.tensor([0, 0])), TwinFormatError, "'elapsed'"),
    (cut_json, TwinFormatError, "JSON"),
    (nan_json, TwinFormatError, "NaN"),
    (deep_json, TwinFormatError, "JSON"),
    (binary_json, TwinFormatError, "JSON"),
    (escape, TwinFormatError, "outside its folder"),
    (escape_instead, TwinFormatError, "outside its folder"),
    (no_json, TwinFormatError, "no twin"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "error", "message"), DAMAGE, ids=lambda part: str(part)[:30])
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
    ({"family": "os:system"}, UnknownFamilyError, "known are"),
    ({"config": {"members": 2, "width": 16, "layers": 1, "head_width": 8}}, TwinMismatchError, "disagree"),
    ({"config": {"members": 1}}, TwinFormatError, "members"),
    ({"config": {"depth": 3}}, TwinFormatError, "depth"),
    ({"config": {"width": "wide"}}, TwinFormatError, "wide"),
    ({"config": {"width": -3}}, TwinFormatError, "config"),
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
     TwinFormatError, "from 2.0 to 1.0"),
    ({"ranges": {"observation": {}, "reward": [1, 0], "action": None}}, TwinFormatError, "range of 'reward'"),
    ({"ranges": {"observation": {}, "reward": ["-inf", 0], "action": None}}, TwinFormatError, "-inf"),
    ({"ranges": {"observation": {}, "reward": [0, 1], "action": [[1, 1], [0, 2]]}}, TwinFormatError, "'action'"),
    ({"termination_threshold": 7.0}, TwinFormatError, "termination_threshold.*7.0.*0..1"),
    ({"termination_threshold": -1}, TwinFormatError, "termination_threshold"),
    ({"uncertainty_threshold": -0.5}, TwinFormatError, "uncertainty_threshold.*-0.5"),
    ({"termination_threshold": "high"}, TwinFormatError, "termination_threshold"),
    ({"uncertainty_threshold": []}, TwinFormatError, "uncertainty_threshold"),
    ({"provenance": None}, TwinFormatError, "provenance"),
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


def test_names_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TwinNotFoundError, match="bundled"):
        Twin.load("no-such-twin")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Twin.load(tmp_path / "nothing")
    (tmp_path / "plain").mkdir()
    with pytest.raises(TwinFormatError, match="no twin"):
        Twin.load(tmp_path / "plain")
    for escaping in ("..", ".", "", "a b", "~"):
        with pytest.raises(TwinNotFoundError):
            find_twin(escaping)
    monkeypatch.chdir(tmp_path)
    small().save("mine")
    with pytest.raises(TwinNotFoundError, match=r"\./mine"):
        Twin.load("mine")
    assert Twin.load("./mine").family == "ensemble"
    assert isinstance(list_twins(), list)


def test_bundled_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "BUNDLED", tmp_path)
    assert list_twins() == []
    small().save(tmp_path / "tiny")
    (tmp_path / "no-twin").mkdir()
    assert list_twins() == ["tiny"]
    assert Twin.load("tiny").family == "ensemble"
    with pytest.raises(TwinNotFoundError, match="tiny"):
        Twin.load("big")


def test_known_functions_are_recorded_and_never_stored(tmp_path: Path) -> None:
    def reward(before: Any, action: Any, after: Any) -> np.ndarray:
        return np.zeros(len(after))

    twin = small()
    known = Twin(twin.spec, twin.family, twin.model, twin.starts, reward_fn=reward)
    folder = known.save(tmp_path / "twin")
    assert json.loads((folder / "twin.json").read_text())["known"] == ["reward"]
    with pytest.raises(KnownFunctionError, match="reward_fn="):
        Twin.load(folder)
    assert Twin.load(folder, reward_fn=reward).known == ["reward"]


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
        with pytest.raises(TwinSaveError, match="no twin"):
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
        with pytest.raises(TwinSaveError, match=r"lies whole at .*\.old") as raised:
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
    with folder_module.locked(folder), pytest.raises(TwinNotFoundError):
        Twin.load(folder)
    assert old.is_dir() and not folder.exists()


def test_not_a_number_is_never_written(tmp_path: Path) -> None:
    twin = small()
    bad = Twin(twin.spec, twin.family, twin.model, twin.starts, fidelity={"error": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        bad.save(tmp_path / "twin")
    assert not (tmp_path / "twin").exists()


@pytest.mark.parametrize("config", [None, {}, {"noise": 0.0}, OracleConfig, 3])
def test_a_model_without_a_dataclass_config_is_not_saved(tmp_path: Path, config: Any) -> None:
    twin = oracle_twin("CartPole-v1")
    bad = dataclasses.replace(twin, model=CartPoleOracle(twin.spec, config))
    with pytest.raises(TwinSaveError, match="frozen dataclass"):
        bad.save(tmp_path / "twin")
    assert not (tmp_path / "twin").exists()


def test_what_is_no_json_is_named(tmp_path: Path) -> None:
    bad = dataclasses.replace(small(), provenance={"from": tmp_path})
    with pytest.raises(TwinSaveError, match=r"Path.*provenance"):
        bad.save(tmp_path / "twin")
    assert not (tmp_path / "twin").exists()


@pytest.mark.parametrize("name", [None, 3, b"cartpole", ["cartpole"]])
def test_a_name_that_is_none(name: Any) -> None:
    for load in (Twin.load, load_cached):
        with pytest.raises(InvalidOptionError, match="str or a Path"):
            load(name)


@pytest.mark.parametrize("device", ["abc", "cuda:99", 3.5])
def test_a_device_that_is_not_there(folder: Path, device: Any) -> None:
    for load in (Twin.load, load_cached):
        with pytest.raises(InvalidOptionError, match="device is"):
            load(folder, device=device)


def test_an_unwritable_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        # Permissions do not bind root: the refusal itself is simulated.
        def refuse(*args: Any, **kwargs: Any) -> str:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(folder_module.tempfile, "mkdtemp", refuse)
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
from world_env.models.ensemble import EnsembleConfig
from world_env.twin import Twin
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
        folder_module.locked(folder),
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


def test_the_cache_reads_a_folder_once(folder: Path) -> None:
    first = load_cached(folder)
    assert load_cached(str(folder) + "/") is first
    assert load_cached(folder, dtype=torch.float64) is not first
    assert load_cached(folder) is first
    assert not any(p.requires_grad for p in first.model.parameters())
    small(1).save(folder)
    assert load_cached(folder) is not first
    (folder / "weights.safetensors").unlink()
    with pytest.raises(TwinFormatError, match="missing"):
        load_cached(folder)


def test_double_precision_twins_live(folder: Path) -> None:
    simulator = Simulator(load_cached(folder, dtype=torch.float64), 2)
    assert simulator.reset(seed=0).dtype == np.float32
    assert np.isfinite(simulator.step(np.zeros(2, int)).observation).all()
