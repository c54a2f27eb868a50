"""Data from elsewhere: any Minari dataset can be looked at and fitted, and what is missing in it is asked for."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from world_env.cli.main import main
from world_env.collection.collect import collect
from world_env.collection.config import CollectConfig
from world_env.data.episode import Episode
from world_env.data.minari import from_minari, to_minari
from world_env.data.recording import Recording
from world_env.data.sources import open_dataset, open_recordings
from world_env.data.validation.lint import lint
from world_env.errors import DataError, InvalidOptionError, StageError
from world_env.spec import EnvConfig
from world_env.twin.twin import Twin

pytestmark = pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")

ID = "elsewhere/walk-v0"
NAMES = ("observations", "actions", "rewards", "terminations", "truncations")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path


def walked(count: int = 12) -> list[EpisodeBuffer]:
    """Episodes of somebody else's recorder: a place that the actions push, rewarded where it arrives."""
    rng = np.random.default_rng(0)
    buffers = []
    for number in range(count):
        died = number % 2 == 0
        length = 10 + number if died else 20
        actions = rng.uniform(-1, 1, (length, 1)).astype(np.float32)
        place = np.append(rng.normal(size=1), actions).cumsum().astype(np.float32)
        ends = np.arange(length) == length - 1
        buffers.append(
            EpisodeBuffer(
                observations=np.stack([place, place**2], 1),
                actions=actions,
                rewards=place[1:].astype(np.float64),
                terminations=ends & died,
                truncations=ends & (not died),
                infos={"elapsed": rng.normal(size=length + 1)},
            )
        )
    return buffers


def written(buffers: Sequence[EpisodeBuffer], **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        plane = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        push = spaces.Box(-1, 1, (1,), np.float32)
        named = {} if options else {"observation_space": plane, "action_space": push}
        return minari.create_dataset_from_buffers(ID, buffers, **named, **options)


def test_a_minari_dataset_without_an_environment_is_fitted_and_asks_for_its_horizon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(walked())
    out = str(tmp_path / "twin")
    fitting = ["fit", "--data", f"minari:{ID}", "--out", out, "--family", "linear"]
    assert main([*fitting, "--gradient-steps", "2"]) == 0
    twin = Twin.load(tmp_path / "twin")
    assert twin.spec.horizon is None and any("horizon" in n for n in twin.fidelity.notes)
    assert twin.provenance.stages["data"] == {"minari": ID}
    assert twin.provenance.real_steps == {"collect": 210}
    assert main([*fitting, "--gradient-steps", "2", "--horizon", "20"]) == 0
    assert Twin.load(tmp_path / "twin").spec.horizon == 20
    assert main([*fitting, "--horizon", "19"]) == 2
    assert "the longest episode has 20 steps" in capsys.readouterr().err
    with pytest.raises(InvalidOptionError, match="horizon is 0"):
        open_dataset(f"minari:{ID}", horizon=0)


def test_the_environment_that_a_dataset_names_is_the_twins_real_one(tmp_path: Path) -> None:
    env = gym.make("CartPole-v1", max_episode_steps=30)
    env.action_space.seed(0)
    buffers = []
    for seed in range(20):
        buffer: dict[str, list[Any]] = {name: [] for name in NAMES}
        buffer["observations"].append(env.reset(seed=seed)[0])
        over = False
        while not over:
            action = env.action_space.sample()
            observation, reward, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
            row = (observation, action, reward, terminated, truncated)
            for name, value in zip(NAMES, row, strict=True):
                buffer[name].append(value)
        buffers.append(EpisodeBuffer(seed=seed, **{n: np.array(v) for n, v in buffer.items()}))
    written(buffers, env=env.spec)
    env.close()
    out = str(tmp_path / "twin")
    fitting = ["fit", "--data", f"minari:{ID}", "--out", out, "--family", "linear"]
    assert main([*fitting, "--gradient-steps", "2"]) == 0
    twin = Twin.load(tmp_path / "twin")
    assert (twin.spec.horizon, twin.spec.real_id) == (30, "CartPole-v1")
    real = twin.provenance.real
    assert real == EnvConfig("CartPole-v1", {"max_episode_steps": 30})
    comparing = ["compare", "--twin", out, "--policies", "--episodes", "50"]
    assert main([*comparing, "--out", str(tmp_path / "compared")]) == 0


def test_a_dataset_recorded_in_a_learned_environment_has_no_real_environment(
    tmp_path: Path,
) -> None:
    env = gym.make("WorldModel/CartPole-v0")
    observations, actions, rewards = [env.reset(seed=0)[0]], [], []
    for _ in range(5):
        actions.append(env.action_space.sample())
        observation, reward, *_ = env.step(actions[-1])
        observations.append(observation)
        rewards.append(reward)
    flags = np.zeros(5, bool)
    columns = (np.array(observations), np.array(actions), np.array(rewards), flags, flags)
    buffer = EpisodeBuffer(seed=0, **dict(zip(NAMES, columns, strict=True)))
    dataset = written([buffer], env=env.spec)
    env.close()
    assert dataset.spec.env_spec.id == "WorldModel/CartPole-v0"
    spec, _, provenance = open_dataset(f"minari:{ID}")
    assert spec.real is None and provenance.real is None
    assert provenance.real_steps == {}


def test_infos_of_others_are_not_taken_for_ours() -> None:
    _, episodes = from_minari(written(walked()))
    assert {episode.elapsed for episode in episodes} == {0}


def spoiled(fault: str) -> list[EpisodeBuffer]:
    buffers = walked()
    if fault == "finite":
        buffers[3].observations[4, 1] = np.nan
    elif fault == "early_end":
        buffers[3].terminations[7] = True
    return buffers


@pytest.mark.parametrize("fault", ["finite", "early_end"])
def test_what_no_fit_can_use_is_read_reported_and_refused(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(spoiled(fault))
    spec, recordings, _ = open_recordings(f"minari:{ID}")
    assert len(recordings) == 12
    (found,) = [finding for finding in lint(recordings, spec) if finding.severity == "error"]
    assert found.check == fault and "episode 3" in found.message + found.where
    assert main(["lint", f"minari:{ID}"]) == 1
    with pytest.raises(DataError, match=r"episode 3 is not usable.*world-env lint"):
        open_dataset(f"minari:{ID}")
    fitting = ["fit", "--data", f"minari:{ID}", "--out", str(tmp_path / "twin")]
    assert main(fitting) == 2
    assert "world-env lint" in capsys.readouterr().err


def test_a_store_and_its_minari_twin_are_the_same_data(tmp_path: Path) -> None:
    real = EnvConfig("CartPole-v1")
    store = collect(CollectConfig(real, tmp_path / "data", 150))
    to_minari(store.load(), store.spec, ID)
    (spec, episodes, kept), (other, again, exchanged) = map(
        open_dataset, (str(tmp_path / "data"), f"minari:{ID}")
    )
    assert spec == other
    assert [e.digest() for e in episodes] == [e.digest() for e in again]
    assert len({e.digest() for e in episodes}) == len(episodes)
    assert kept.real == real
    assert exchanged.real == EnvConfig("CartPole-v1", {"max_episode_steps": 500})
    assert kept.real_steps == {"collect": 150, "validate": 1}
    assert exchanged.real_steps == {"collect": 150}


def test_a_digest_is_of_the_arrays_alone() -> None:
    arrays = np.zeros((4, 2), np.float32), np.zeros((3, 1)), np.arange(3.0)
    one = Episode(*arrays, terminated=True, truncated=False, seed=1)
    assert len(one.digest()) == 8
    assert one.digest() == Recording(*arrays, terminated=False, truncated=True).digest()
    changed = np.arange(3.0) + np.array([0, 0, 1e-3])
    other = Episode(arrays[0], arrays[1], changed, terminated=True, truncated=False)
    assert one.digest() != other.digest()


def test_an_unknown_dataset_is_named() -> None:
    for text in ("minari:no/such-v0", "no-such-folder"):
        with pytest.raises(StageError, match="no"):
            open_dataset(text)
