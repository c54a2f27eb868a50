"""Options of the real environment: time limit and reset options, alone or beside the environment of a twin."""

import dataclasses
from pathlib import Path

import pytest
from oracle import oracle_twin

from world_env.cli.console import real_of_twin
from world_env.cli.main import main
from world_env.cli.options import RealEnv
from world_env.data.store import EpisodeStore
from world_env.errors import InvalidOptionError
from world_env.spec import EnvConfig


def test_every_option_reaches_the_environment() -> None:
    given = RealEnv("A-v0", {"size": 3}, action_chunk=2, horizon=9, reset_options={"map": "ice"})
    expected = EnvConfig("A-v0", {"size": 3}, (), 2, 9, {"map": "ice"})
    assert given.config() == expected and type(given.config()) is EnvConfig
    assert RealEnv().config() is None
    with pytest.raises(InvalidOptionError, match="--horizon and --reset-options belong to a real"):
        RealEnv(horizon=9).config()


def test_a_time_limit_keeps_the_arguments_of_the_twins_environment() -> None:
    own = EnvConfig("CartPole-v1", {"max_episode_steps": 60})
    twin = oracle_twin("CartPole-v1")
    twin = dataclasses.replace(twin, provenance=twin.provenance.replace(real=own))
    assert real_of_twin(twin, None) == real_of_twin(twin, EnvConfig("CartPole-v1")) == own
    limited = EnvConfig("CartPole-v1", horizon=30)
    assert real_of_twin(twin, limited) == own.replace(horizon=30)
    other = EnvConfig("CartPole-v1", {"max_episode_steps": 9})
    assert real_of_twin(twin, other) == other


def test_an_environment_without_a_time_limit_asks_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collecting = [
        "collect",
        "hand_written:Endless-v0",
        "--steps",
        "30",
        "--out",
        str(tmp_path / "d"),
    ]
    assert main(collecting) == 2
    assert "Endless-v0 has no time limit" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()
    assert main([*collecting, "--horizon", "10", "--reset-options", '{"a": 1}']) == 0
    store = EpisodeStore(tmp_path / "d")
    assert store.lengths == [10, 10, 10] and store.spec.horizon == 10
    assert store.provenance["real"]["reset_options"] == {"a": 1}


def test_an_error_of_the_environment_is_told_with_its_own_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--steps", "30", "--horizon", "50", "--out", str(tmp_path / "d")]
    assert main(["collect", "hand_written:Breaks-v0", *options]) == 1
    text = capsys.readouterr().err
    assert "RuntimeError: connection lost (raised by step() number 7 of the episode" in text
    assert "hand_written.py" in text and "gate.py" not in text and "collect.py" not in text
