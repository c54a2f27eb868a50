"""A twin on disk: what comes back, by which names it is found, and what the cache keeps."""

import copy
import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import oracle_twin
from small_twin import small

import world_env.twin.serialization as folder_module
import world_env.twin.twin as twin_module
from world_env.codec import Codec
from world_env.data_range import DataRange
from world_env.errors import (
    InvalidOptionError,
    KnownFunctionError,
    TwinFormatError,
    TwinNotFoundError,
)
from world_env.results import Fidelity, Provenance
from world_env.simulation.simulator import Simulator
from world_env.simulation.state_filter import StateFilter
from world_env.spec import EnvConfig
from world_env.twin.serialization import find_twin, list_twins
from world_env.twin.twin import Twin, load_cached


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
        provenance=Provenance(steps=7),
        fidelity=Fidelity(reward_error=0.5),
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


def test_the_codec_is_built_once_per_twin() -> None:
    twin = dataclasses.replace(
        small(), ranges=DataRange({"observation": ([-5.0] * 4, [5.0] * 4)}, (0.0, 1.0))
    )
    codec = twin.codec
    assert twin.codec is codec
    for copied in (copy.deepcopy(twin), pickle.loads(pickle.dumps(twin)), copy.copy(twin)):
        again = copied.codec
        assert copied.codec is again
        np.testing.assert_array_equal(again.clip_reward(np.array([-9.0, 9.0])), [0.0, 1.0])
        assert again.shapes == codec.shapes and again.action_size == codec.action_size
    other = dataclasses.replace(twin, ranges=DataRange({}, (-3.0, 3.0)))
    assert other.codec is not codec and twin.codec is codec
    np.testing.assert_array_equal(other.codec.clip_reward(np.array([-9.0, 9.0])), [-3.0, 3.0])
    assert dataclasses.replace(twin, ranges=None).codec.clip_reward(np.array([9.0])) == 9.0


def test_steps_of_a_state_filter_build_no_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    twin, built = small(), []
    monkeypatch.setattr(twin_module, "Codec", lambda *args: built.append(args) or Codec(*args))
    state_filter = StateFilter(twin)
    observation = np.zeros((2, 4), np.float32)
    state_filter.start(observation, [0, 1])
    for _ in range(5):
        state_filter.update(np.zeros(2, int), observation, np.arange(2))
    assert StateFilter(twin).view.space == state_filter.view.space
    assert len(built) == 1


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


def test_names_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TwinNotFoundError, match="no bundled twin"):
        Twin.load("no-such-twin")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Twin.load(tmp_path / "nothing")
    (tmp_path / "plain").mkdir()
    with pytest.raises(TwinFormatError, match="is not a twin"):
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
    with pytest.raises(InvalidOptionError, match="expected torch"):
        Twin.load(folder, dtype=torch.float16)
    simulator = Simulator(load_cached(folder, dtype=torch.float64), 2)
    assert simulator.reset(seed=0).dtype == np.float32
    assert np.isfinite(simulator.step(np.zeros(2, int)).observation).all()


def test_the_text_of_a_twin_names_the_environment_of_a_function_too() -> None:
    twin = small()
    unknown = dataclasses.replace(twin, spec=dataclasses.replace(twin.spec, real=None))
    assert repr(unknown).startswith("Twin(no real environment, ")
    real = Provenance(real=EnvConfig("cooling:CoolingEnv"))
    assert repr(dataclasses.replace(unknown, provenance=real)).startswith("Twin(cooling:CoolingEnv")
