"""The help of the command line: fast, complete, and with the name that was probably meant."""

import subprocess
import sys
from typing import get_type_hints

import msgspec
import pytest

import world_env
from world_env.cli.main import COMMANDS, load_command, main, usage
from world_env.cli.options import field_texts
from world_env.struct import Struct


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"]):
        assert main(words) == 0
        assert capsys.readouterr().out.strip() == usage()
    for name, command in COMMANDS.items():
        assert f"  {name} " in usage() and command.help in usage()


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"world-env {world_env.__version__}\n"


def test_the_help_loads_no_parser_and_no_stage() -> None:
    code = (
        "import sys; from world_env.cli.main import main; main(['--help']); "
        "sys.exit(sum(m in sys.modules for m in ('torch', 'tyro', 'rich', 'tqdm', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_the_help_of_a_command_loads_no_torch() -> None:
    code = (
        "import sys; from world_env.cli.main import COMMANDS, load_command; "
        "[load_command(name) for name in COMMANDS]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_an_unknown_command_is_named_with_one_like_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["colect"]) == 2
    said = capsys.readouterr().err
    assert "unknown command 'colect'" in said and "Did you mean `world-env collect`?" in said


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_setting_has_a_text(name: str) -> None:
    def check(kind: type[Struct]) -> None:
        for field in msgspec.structs.fields(kind):
            text = field_texts(kind).get(field.name, "")
            assert len(text.split()) >= 3, f"{kind.__name__}.{field.name} has no text"
            if isinstance(field.type, type) and issubclass(field.type, Struct):
                check(field.type)

    check(get_type_hints(load_command(name))["config"])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = help_of(name, capsys)
    assert str(load_command(name).__doc__).split()[0] in shown
    # The text says what a missing value means; the parser adds no second one.
    shown = shown.replace("--patience {None}|INT", "")  # its default is a number
    assert "(default: None)" not in shown and "{None}" not in shown


def test_an_environment_is_named_in_one_way_by_all_commands(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("build", "collect", "compare", "futures", "learn", "pool", "refine", "watch"):
        shown = help_of(name, capsys)
        for option in ("ENV_ID", "--env-kwargs JSON", "--wrapper MODULE:CLASS", "--action-chunk"):
            assert option in shown, f"`world-env {name}` has no {option}"


def test_options_stay_short_and_only_where_they_are_used(
    capsys: pytest.CaptureFixture[str],
) -> None:
    learn, refine = help_of("learn", capsys), help_of("refine", capsys)
    assert "--dataset-starts" in learn and "--encoder" in learn and "--simulation" not in learn
    assert "--min-action-std" not in learn and "--learn.min-action-std" in refine
    assert "--learn.dataset-starts" in refine and "--learn.normalization" not in refine
