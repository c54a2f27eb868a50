"""A twin against logs: an exact one follows them exactly, a wrong one is seen, and what was learned is not judged."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import oracle_twin

from world_env.cli.main import main
from world_env.collection.collect import collect
from world_env.collection.config import CollectConfig
from world_env.data.episode import Episode
from world_env.data.store import EpisodeStore
from world_env.errors import InvalidOptionError, TooLittleDataError
from world_env.fitting.config import FitConfig
from world_env.fitting.fit import fit
from world_env.model_evaluation.log_replay import held_out, replay_logs
from world_env.simulation.simulator import Simulator
from world_env.spec import EnvConfig
from world_env.twin.twin import Twin

pytestmark = pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")

CARTPOLE = EnvConfig("CartPole-v1", {"max_episode_steps": 30})
TINY = FitConfig(gradient_steps=2, family="linear")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    out = tmp_path_factory.mktemp("logs") / "cartpole"
    return collect(CollectConfig(CARTPOLE, out, 700, seed=5))


@pytest.fixture(scope="module")
def logs(store: EpisodeStore) -> list[Episode]:
    return store.load()


def test_an_exact_twin_follows_the_logs_exactly(logs: list[Episode]) -> None:
    found = replay_logs(oracle_twin("CartPole-v1"), logs)
    assert found.episodes == len(logs) and found.steps == 700
    assert found.return_error.mean == found.return_error.mean_absolute == 0.0
    ends = found.termination
    died = [episode.terminated for episode in logs]
    assert ends.logged_ends == sum(died) and not all(died)
    assert (ends.on_time, ends.early, ends.missed) == (1.0, 0.0, 0.0)
    assert (ends.median_absolute_difference, ends.false_ends) == (0.0, 0.0)
    assert (found.coverage.inside, found.coverage.median_width) == (1.0, 0.0)
    for row, episode in zip(found.rows, logs, strict=True):
        assert row.learned == row.logged == len(episode)
        assert row.ended == (len(episode) if episode.terminated else None)
    json.dumps(found.to_json(), allow_nan=False)


def test_an_exact_twin_of_changing_rewards_covers_all_of_them(tmp_path: Path) -> None:
    real = EnvConfig("Pendulum-v1", {"max_episode_steps": 60})
    episodes = collect(CollectConfig(real, tmp_path, 600)).load()
    found = replay_logs(oracle_twin("Pendulum-v1"), episodes)
    assert found.return_error.mean_absolute_relative < 1e-3
    assert found.coverage.inside == 1.0
    assert found.termination.on_time is None and found.termination.false_ends == 0.0


def judged_with(logs: list[Episode], **functions: Any) -> dict[str, Any]:
    return replay_logs(dataclasses.replace(oracle_twin("CartPole-v1"), **functions), logs)


def test_a_wrong_reward_is_seen(logs: list[Episode]) -> None:
    found = judged_with(logs, reward_fn=lambda obs, action, after: np.full(len(obs), 1.5))
    lengths = np.array([len(episode) for episode in logs])
    assert found.return_error.mean == pytest.approx(0.5 * lengths.mean())
    relative = 0.5 * lengths.mean() / np.ptp(lengths)
    assert found.return_error.mean_relative == pytest.approx(relative)
    assert found.coverage.inside == 0.0 and found.termination.on_time == 1.0


def test_ends_that_come_too_early_or_never_are_seen(logs: list[Episode]) -> None:
    early = judged_with(logs, termination_fn=lambda obs, action, after: np.abs(after[:, 2]) > 0.1)
    ends = early.termination
    assert ends.early > 0.9 and ends.missed == 0.0
    assert ends.median_absolute_difference >= 1 and early.return_error.mean < 0
    assert ends.false_ends > 0
    never = judged_with(logs, termination_fn=lambda obs, action, after: np.zeros(len(obs), bool))
    assert never.termination.missed == 1.0
    assert never.termination.median_absolute_difference is None


def test_the_interval_covers_as_often_as_it_says() -> None:
    # Logs of a noisy world, and that world as its own twin.
    twin = oracle_twin("Pendulum-v1", noise=0.05, horizon=30)
    rows = 200
    simulator = Simulator(twin, rows, seed=123)
    first = simulator.reset()
    actions = np.random.default_rng(0).uniform(-2, 2, (30, rows, 1)).astype(np.float32)
    rewards = np.stack([simulator.step(action).reward for action in actions])
    logged = []
    for i in range(rows):
        seen = np.repeat(first[i : i + 1], 31, axis=0)
        logged.append(Episode(seen, actions[:, i], rewards[:, i], False, True))
    found = replay_logs(twin, logged)
    low, high = found.coverage.inside_ci95
    assert low < 0.9 < high
    assert 0 < found.coverage.median_width_relative < 1


def test_too_few_rollouts_are_refused(logs: list[Episode]) -> None:
    with pytest.raises(InvalidOptionError, match="at least 19"):
        replay_logs(oracle_twin("CartPole-v1"), logs, rollouts=18)


# -- what is held out ---------------------------------------------------------------------------------------------


def test_a_fit_remembers_what_it_was_fitted_to(store: EpisodeStore, tmp_path: Path) -> None:
    logs = store.load()
    twin = fit(store.folder, tmp_path / "twin", TINY)
    known = twin.provenance
    assert len(known.trained_on) + len(known.validated_on) == len(logs)
    fresh, left_out, warnings = held_out(Twin.load(tmp_path / "twin"), [*logs, logs[0].cut(2, 4)])
    assert [episode.digest() for episode in fresh] == known.validated_on
    assert left_out == {"pieces": 1, "trained_on": len(known.trained_on)}
    assert "selected weights and thresholds" in warnings[0]
    with pytest.raises(TooLittleDataError, match="kept away from `fit`"):
        held_out(twin, [e for e in logs if e.digest() in known.trained_on])


def test_of_few_episodes_all_were_fitted_to(store: EpisodeStore, tmp_path: Path) -> None:
    few = EpisodeStore.create(tmp_path / "few", store.spec)
    few.append(sorted(store.load(), key=len)[-9:])
    twin = fit(few.folder, tmp_path / "twin", TINY)
    assert twin.provenance.validated_on == []
    with pytest.raises(TooLittleDataError, match="fitted to 9"):
        replay_logs(twin, few.load())


# -- the command --------------------------------------------------------------------------------------------------


def test_logs_are_compared_without_a_simulator(
    store: EpisodeStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    twin, out = str(tmp_path / "twin"), str(tmp_path / "out")
    fit(store.folder, tmp_path / "twin", TINY)
    monkeypatch.setattr("world_env.real.real_env._made", None)
    assert main(["compare", "--twin", twin, "--against", str(store.folder), "--out", out]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "nothing about policies that act differently" in shown and "warning" in shown
    stored = json.loads((tmp_path / "out" / "logs.json").read_text("utf-8"))
    assert stored["dataset"] == "cartpole" and "nothing about policies" in stored["certifies"]
    assert "open loop" in shown and "open loop" in stored["open_loop"]
    assert stored["episodes"] == len(stored["rows"]) < len(store)
    assert str(tmp_path) not in json.dumps(stored)
    # A dataset looks at what the twin knows, too.
    assert main(["lint", str(store.folder), "--twin", twin]) == 0


def test_an_older_twin_is_compared_with_a_warning(
    store: EpisodeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = str(oracle_twin("CartPole-v1").save(tmp_path / "twin"))
    out = ["--out", str(tmp_path / "out")]
    assert main(["compare", "--twin", twin, "--against", str(store.folder), *out]) == 0
    assert "has no record of its training episodes" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "pass --policies FOLDER"),
        (["--policies", "--against", "x"], "leave out --policies"),
        (["--against", "x", "CartPole-v1"], "leave out --policies, ENV_ID and --pool"),
        (["--against", "x", "--pool", "y"], "leave out --policies, ENV_ID and --pool"),
    ],
)
def test_policies_or_logs_but_not_both(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--twin", "cartpole", *options]) == 2
    assert words in capsys.readouterr().err


def test_logs_of_another_world_are_refused(
    store: EpisodeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--twin", "pendulum", "--against", str(store.folder)]) == 2
    assert "SpaceMismatchError: the observation_space of the logs" in capsys.readouterr().err
