"""Collecting is resumable, exact and honest about every real step."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from world_env.collection.collect import collect
from world_env.collection.config import CollectConfig
from world_env.data.episode import Episode
from world_env.data.store import EpisodeStore
from world_env.errors import EnvApiError, StageError
from world_env.policies.config import RandomExploration, random_and_held
from world_env.real.step_ledger import StepLedger
from world_env.spec import EnvConfig

COUNTING = EnvConfig("counting:Counting-v0")
MIXED = random_and_held(4)


def configured(out: Path, steps: int = 120, **change: object) -> CollectConfig:
    options: dict[str, object] = {"exploration": MIXED, "seed": 5, "shard_steps": 30, **change}
    return CollectConfig(COUNTING, out, steps, **options)  # type: ignore[arg-type]


class Stop(Exception):
    pass


def stop_after(episodes: int, error: type[BaseException] = Stop):
    seen = iter(range(1, episodes + 1))

    def progress(done: int, wanted: int) -> None:
        if next(seen) == episodes:
            raise error

    return progress


def assert_same(left: list[Episode], right: list[Episode]) -> None:
    assert [(e.seed, len(e), e.terminated, e.truncated) for e in left] == [
        (e.seed, len(e), e.terminated, e.truncated) for e in right
    ]
    for a, b in zip(left, right, strict=True):
        for key, column in a.columns().items():
            np.testing.assert_array_equal(column, b.columns()[key])


def test_episodes_of_a_slow_environment_do_not_wait_for_a_full_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []

    def progress(done: int, wanted: int) -> None:
        kept.append(EpisodeStore(tmp_path / "a").steps)

    monkeypatch.setattr("world_env.collection.collect._MAX_SECONDS_IN_MEMORY", 0.0)
    collect(configured(tmp_path / "a", shard_steps=1_000), progress=progress)
    assert kept[0] == 0 and all(steps > 0 for steps in kept[1:])


def test_exactly_the_wanted_steps_are_stored_and_counted(tmp_path: Path) -> None:
    whole = StepLedger()
    store = collect(configured(tmp_path), ledger=whole)
    episodes = store.load()
    assert store.steps == sum(map(len, episodes)) == 120
    counted = {"collect": 120, "validate": 1}
    assert whole.by_purpose == store.real_steps == counted
    assert StepLedger(tmp_path / "steps.json").by_purpose == counted
    assert len({episode.seed for episode in episodes}) == len(episodes)
    for episode in episodes:
        action = episode.actions.astype(np.float32)
        expected = 100 * np.arange(len(episode)) + action
        np.testing.assert_array_equal(episode.rewards, expected)
        assert episode.terminated or episode.truncated
    # The time limit of 10 steps, and the cut at the end, are never terminations.
    assert any(len(e) == 10 and e.truncated and not e.terminated for e in episodes)
    assert any(len(e) < 10 and e.terminated and not e.truncated for e in episodes)


def test_the_cut_at_the_last_step_is_a_truncation(tmp_path: Path) -> None:
    (episode,) = collect(configured(tmp_path, steps=3)).load()
    assert (len(episode), episode.terminated, episode.truncated) == (3, False, True)


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
@pytest.mark.parametrize("episodes", [1, 4, 9])
def test_a_stopped_collection_goes_on_as_if_never_stopped(
    tmp_path: Path, episodes: int, error: type[BaseException]
) -> None:
    straight = collect(configured(tmp_path / "a")).load()
    with pytest.raises(error):
        collect(configured(tmp_path / "b"), progress=stop_after(episodes, error))
    assert len(EpisodeStore(tmp_path / "b")) == episodes
    resumed = collect(configured(tmp_path / "b"))
    assert_same(resumed.load(), straight)
    assert resumed.real_steps == {"collect": 120}


def test_a_killed_collection_loses_no_shard_and_forgets_no_step(tmp_path: Path) -> None:
    straight = collect(configured(tmp_path / "a", steps=3000)).load()
    code = (
        "import time; from pathlib import Path; from world_env import CollectConfig, EnvConfig, collect\n"
        "from world_env.policies import random_and_held\n"
        f"collect(CollectConfig(EnvConfig('counting:Counting-v0'), Path({str(tmp_path / 'b')!r}), "
        f"3000, random_and_held(4), 5, shard_steps=30), progress=lambda d, w: time.sleep(0.005))"
    )
    path = os.pathsep.join(["tests", "."])
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if EpisodeStore.exists(tmp_path / "b") and EpisodeStore(tmp_path / "b").steps > 100:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = EpisodeStore(tmp_path / "b").steps
    assert 100 < kept < 3000
    spent = StepLedger(tmp_path / "b" / "steps.json").by_purpose["collect"]
    assert spent >= kept
    resumed = collect(configured(tmp_path / "b", steps=3000))
    assert_same(resumed.load(), straight)
    assert resumed.real_steps["collect"] == spent + 3000 - kept


def test_a_finished_collection_takes_no_further_step(tmp_path: Path) -> None:
    collect(configured(tmp_path))
    whole = StepLedger()
    assert collect(configured(tmp_path), ledger=whole).steps == 120
    assert whole.total() == 0
    assert collect(configured(tmp_path, steps=150), ledger=whole).steps == 150
    assert whole.total() == 30


@pytest.mark.parametrize(
    ("change", "name"),
    [({"seed": 6}, "seed"), ({"exploration": RandomExploration()}, "exploration")],
)
def test_a_store_of_another_collection_is_refused(
    tmp_path: Path, change: dict[str, object], name: str
) -> None:
    collect(configured(tmp_path))
    with pytest.raises(StageError, match=rf"other settings: {name}.* was"):
        collect(configured(tmp_path, **change))
    with pytest.raises(StageError, match=r"other settings: real\.env_id was"):
        collect(CollectConfig(EnvConfig("CartPole-v1"), tmp_path, 120, MIXED, 5))
    with pytest.raises(StageError, match="already holds 120"):
        collect(configured(tmp_path, steps=50))
    # A refused call leaves the settings as they are.
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 120


def test_a_store_that_was_not_collected_is_refused(tmp_path: Path) -> None:
    collected = collect(configured(tmp_path / "collected"))
    store = EpisodeStore.create(tmp_path / "own", collected.spec, provenance={"source": "robot"})
    store.append(collected.load(), real_steps={})
    with pytest.raises(StageError, match="other settings: real was null"):
        collect(configured(tmp_path / "own", steps=150))
    assert EpisodeStore(tmp_path / "own").steps == 120
    assert not (tmp_path / "own" / "config.json").exists()


def test_a_folder_that_cannot_be_written_is_named_before_any_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    whole = StepLedger()
    for place in ("file", "file/inside"):
        with pytest.raises(StageError, match=r"cannot write .*file"):
            collect(configured(tmp_path / place), ledger=whole)
    assert whole.total() == 0


def test_numbers_that_are_not_finite_stop_it_and_keep_what_was_complete(tmp_path: Path) -> None:
    # Only episodes of at least 8 steps reach the fault.
    real = EnvConfig("counting:Counting-v0", {"nan_at": 8})
    config = CollectConfig(real, tmp_path, 500, seed=5)
    with pytest.raises(EnvApiError, match=r"step\(\) number 8 of the episode .*observation\[1\]"):
        collect(config)
    store = EpisodeStore(tmp_path)
    assert all(len(episode) < 8 for episode in store.load())
    assert store.real_steps["collect"] == store.steps + 8


def test_two_collections_into_one_folder_do_not_both_take_steps(tmp_path: Path) -> None:
    inner = StepLedger()

    def collect_again(done: int, wanted: int) -> None:
        with pytest.raises(StageError, match="another process is writing the episode store"):
            collect(configured(tmp_path), ledger=inner)

    store = collect(configured(tmp_path), progress=collect_again)
    assert (store.steps, inner.total()) == (120, 0)


def test_the_folder_of_another_command_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"twin": "cartpole", "seed": 5}')
    with pytest.raises(StageError, match="settings twin, which this command does not have"):
        collect(configured(tmp_path))


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        configured(Path("x"), steps=0)
    with pytest.raises(ValueError, match="evaluate"):
        configured(Path("x"), purpose="fun")


def test_episodes_with_parts_are_collected(tmp_path: Path) -> None:
    real = EnvConfig("counting:Counting-v0", {"parts": True})
    episode = collect(CollectConfig(real, tmp_path, 30)).load()[0]
    assert isinstance(episode.observations, dict)
    assert episode.observations["pixels"].dtype == np.uint8
    assert episode.observations["mode"].tolist() == [i % 3 for i in range(len(episode) + 1)]
