"""Settings in files: defaults of the command line, the record of a run, and what may not change in its folder."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from command_lines import TINY_LEARNING

from world_env.cli.commands import collect_command, fit_command, learn_command, refine_command
from world_env.cli.main import COMMANDS, main
from world_env.cli.options import VIEWS, View, parse
from world_env.collection.config import CollectConfig
from world_env.errors import ConfigMismatchError, InvalidOptionError, StageError
from world_env.fitting.config import FitConfig
from world_env.policies.config import (
    HeldExploration,
    MixtureExploration,
    PolicyExploration,
    RandomExploration,
)
from world_env.refinement.config import RefineConfig
from world_env.rl.config import LearnConfig, TwinTrainingConfig
from world_env.run_config import CONFIG_FILE, keep_config
from world_env.spec import EnvConfig, WrapperConfig
from world_env.struct import Struct

COLLECT = """
steps = 70
out = "{out}"
[real]
env_id = "CartPole-v1"
kwargs = {{max_episode_steps = 20}}
wrappers = [{{name = "gymnasium.wrappers:TimeLimit", kwargs = {{max_episode_steps = 10}}}}]
[exploration]
kind = "mixture"
parts = [{{kind = "random"}}, {{kind = "held", steps = 4}}]
weights = [1, 3]
"""


def written(folder: Path, text: str, name: str = "run.toml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def read(function: Any, *words: str) -> Any:
    name = function.__name__.removesuffix("_command")
    return parse(function, list(words), prog=name, view=VIEWS.get(name, View()))


def test_a_file_gives_defaults_that_options_replace(tmp_path: Path) -> None:
    file = written(tmp_path, COLLECT.format(out=tmp_path / "data"))
    mixed = MixtureExploration(
        parts=(RandomExploration(), HeldExploration(steps=4)), weights=(1, 3)
    )
    limit = WrapperConfig("gymnasium.wrappers:TimeLimit", {"max_episode_steps": 10})
    real = EnvConfig("CartPole-v1", {"max_episode_steps": 20}, (limit,))
    wanted = CollectConfig(real, tmp_path / "data", 70, mixed)
    assert read(collect_command, "--config", file) == wanted
    assert read(collect_command, f"--config={file}", "--steps", "90") == wanted.replace(steps=90)
    other = read(
        collect_command,
        "Acrobot-v1",
        "--config",
        file,
        "exploration:held",
        "--exploration.steps",
        "8",
    )
    assert other.real == real.replace(env_id="Acrobot-v1")
    assert other.exploration == HeldExploration(steps=8)


def test_nested_settings_of_a_file_keep_the_other_defaults(tmp_path: Path) -> None:
    file = written(
        tmp_path, "[learn.simulation]\nrollout_length = 5\n[learn.real]\nencoder = 'x'\n"
    )
    config = read(
        learn_command, "--config", file, "--twin", "cartpole", "--out", "x", "--steps", "3"
    )
    assert config.learn.steps == 3
    assert config.learn.simulation == TwinTrainingConfig(rollout_length=5)
    assert config.learn.real.encoder == "x"


def test_what_has_no_option_is_read_from_a_file(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        'rounds = 2\nlater_exploration = {kind = "policy", path = "newest"}\n'
        'explorers.bold.algo_kwargs.gamma = 0.9\n[fit]\nfamily = "linear"\n',
    )
    config = read(
        refine_command, "CartPole-v1", "--config", file, "--out", "x", "--fit.batch-size", "4"
    )
    assert config == RefineConfig(
        EnvConfig("CartPole-v1"),
        Path("x"),
        rounds=2,
        later_exploration=PolicyExploration(path="newest"),
        explorers={"bold": {"algo_kwargs": {"gamma": 0.9}}},
        fit=FitConfig(family="linear", batch_size=4),
    )


def test_the_record_of_a_run_is_a_file_of_settings(tmp_path: Path) -> None:
    out = tmp_path / "data"
    file = written(tmp_path, COLLECT.format(out=out))
    assert main(["collect", "--config", file]) == 0
    record = out / CONFIG_FILE
    config = read(collect_command, "--config", str(record))
    assert config == read(collect_command, "--config", file)
    assert main(["collect", "--config", str(record), "--steps", "80"]) == 0
    assert json.loads(record.read_text())["steps"] == 80


@pytest.mark.filterwarnings("ignore::world_env.fitting.preconditions.FitWarning")
def test_a_fit_and_a_training_leave_their_settings_too(tmp_path: Path) -> None:
    data, twin, policy = (str(tmp_path / name) for name in ("data", "twin", "policy"))
    assert main(["collect", "CartPole-v1", "--out", data, "--steps", "120"]) == 0
    fitting = ["--data", data, "--out", twin, "--family", "linear", "--gradient-steps", "2"]
    assert main(["fit", *fitting]) == 0
    assert read(fit_command, "--config", f"{twin}/{CONFIG_FILE}") == read(fit_command, *fitting)
    learning = ["--twin", twin, "--out", policy, *TINY_LEARNING]
    assert main(["learn", *learning]) == 0
    record = f"{policy}/{CONFIG_FILE}"
    assert read(learn_command, "--config", record) == read(learn_command, *learning)
    assert main(["learn", "--config", record]) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stepz = 3", "run.toml has the unknown setting 'stepz'.*did you mean 'steps'"),
        ("[real]\nenvid = 'x'", "run.toml: real has the unknown setting 'envid'.*'env_id'"),
        ("steps = 'many'", "run.toml: steps: Expected `int`, got `str`"),
        ("steps = 0", "steps must be at least 1, got 0"),
        (
            "exploration = {kind = 'hold', steps = 3}",
            "exploration has the unknown kind 'hold', expected one of random, held.*did you mean 'held'",
        ),
        ("exploration = {steps = 3}", "exploration has no kind, expected one of random, held"),
        (
            "exploration = {kind = 'held', step = 3}",
            "exploration has the unknown setting 'step', expected one of steps: did you mean 'steps'",
        ),
        (
            "[exploration]\nkind = 'mixture'\nparts = [{kind = 'random'}, {kind = 'polcy', path = 'x'}]\n"
            "weights = [1, 1]",
            r"exploration: parts\[1\] has the unknown kind 'polcy'.*did you mean 'policy'",
        ),
        (
            "[real]\nenv_id = 'x'\nwrappers = [{nam = 'a:B'}]",
            r"real: wrappers\[0\] has the unknown setting 'nam'.*did you mean 'name'",
        ),
        (
            "[real]\nenv_id = 'x'\nwrappers = ['a:B']",
            r"real: wrappers\[0\] is 'a:B', expected a table such as \{name = \.\.\.\} .*name, kwargs",
        ),
        ("purpose = 'fun'", "run.toml: purpose: Invalid enum value 'fun'"),
        ("[exploration]\nkind = 'held'", "run.toml: exploration: .*missing required field `steps`"),
        (
            "[exploration]\nkind = 'dance'",
            "run.toml: exploration has the unknown kind 'dance', expected one of random",
        ),
        ("steps = ", "cannot read the settings in .*run.toml"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_with_its_place(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, text)
    options = [] if "steps" in text else ["--steps", "5"]
    env = [] if "[real]" in text else ["CartPole-v1"]
    assert main(["collect", *env, "--config", file, "--out", str(tmp_path / "d"), *options]) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert said.startswith("world-env: InvalidOptionError: ")
    assert re.search(words, said), said
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "twins"])
def test_every_command_takes_a_file(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--config", written(tmp_path, "no_such_setting = 1")]) == 2
    assert "unknown setting 'no_such_setting'" in capsys.readouterr().err
    assert main([name, "--config", str(tmp_path / "missing.toml")]) == 2
    assert "cannot read the settings" in capsys.readouterr().err


def test_a_folder_keeps_its_settings(tmp_path: Path) -> None:
    config = {"out": "a", "steps": 5, "fit": {"seed": 0, "model": {"width": 8}}, "gone": None}
    keep_config(tmp_path, config)
    keep_config(tmp_path, config | {"out": "b"})
    assert json.loads((tmp_path / CONFIG_FILE).read_text())["out"] == "b"
    changed = config | {"steps": 6, "fit": {"seed": 1, "model": {"width": 9}}}
    with pytest.raises(ConfigMismatchError) as caught:
        keep_config(tmp_path, changed)
    for words in ("steps was 5, now 6", "fit.seed was 0, now 1", "fit.model.width was 8, now 9"):
        assert words in str(caught.value)
    with pytest.raises(ConfigMismatchError, match="fit"):
        keep_config(tmp_path, changed, may_change=("steps",))
    (tmp_path / CONFIG_FILE).write_text("[1]")
    with pytest.raises(StageError, match="cannot be read"):
        keep_config(tmp_path, config)


def test_a_struct_is_updated_inside(tmp_path: Path) -> None:
    config = LearnConfig(algo_kwargs={"gamma": 0.9}, simulation=TwinTrainingConfig(temperature=0.5))
    changes = {"steps": 7, "algo_kwargs": {}, "simulation": {"on_uncertain": "truncate"}}
    found = config.updated(changes, where="a file")
    assert found == LearnConfig(
        steps=7, simulation=TwinTrainingConfig(temperature=0.5, on_uncertain="truncate")
    )
    with pytest.raises(InvalidOptionError, match=r"a file: simulation: .*unknown field `noise`"):
        config.updated({"simulation": {"noise": 1}}, where="a file")
    run = RefineConfig(EnvConfig("X"), tmp_path)
    held = {"kind": "held", "steps": 3}
    assert run.updated({"exploration": held}, where="x").exploration == HeldExploration(steps=3)


def test_a_setting_that_no_file_can_hold_is_named() -> None:
    config = LearnConfig(algo_kwargs={"learning_rate": abs})
    with pytest.raises(InvalidOptionError, match=r"abs.*has no JSON form"):
        config.to_json()


@pytest.mark.parametrize(
    "config",
    [
        FitConfig(),
        LearnConfig(),
        RefineConfig(EnvConfig("X"), Path("y")),
        CollectConfig(EnvConfig("X"), Path("y"), 3),
    ],
)
def test_settings_are_read_back_from_their_json(config: Struct) -> None:
    tree = json.loads(json.dumps(config.to_json(), allow_nan=False))
    assert type(config).from_json(tree, where="the record") == config
    with pytest.raises(InvalidOptionError, match=r"the record: .*unknown field `other`"):
        type(config).from_json(tree | {"other": 1}, where="the record")
    with pytest.raises(InvalidOptionError, match="the record: Expected `int`"):
        type(config).from_json(tree | {"seed": "x"}, where="the record")
