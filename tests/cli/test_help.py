"""The help of the command line: fast, complete, and with the name that was probably meant."""

import re
import subprocess
import sys
import warnings

import pytest
import tyro

import world_env
from world_env.cli.main import COMMANDS, json_fields, load_command, main, usage


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


def options_of(name: str) -> dict[str, str]:
    """Every option of a command -> its help text, without the part about its default that tyro adds."""
    with json_fields(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the only way to the parser
        parser = tyro.extras.get_parser(load_command(name))
    found = {}
    for action in parser._actions:
        text = re.sub(r"\s+", " ", str(action.help or ""))
        text = re.sub(r"\((default|required|fixed|repeatable).*$", "", text).strip()
        found[" ".join(action.option_strings) or action.dest] = text
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text(name: str) -> None:
    without = [option for option, text in options_of(name).items() if len(text.split()) < 3]
    assert not set(without) - {"-h --help"}, f"options of `world-env {name}` without help"


@pytest.mark.parametrize("stage", COMMANDS)
def test_every_command_explains_itself(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([stage, "--help"])
    assert left.value.code == 0
    first = str(load_command(stage).__doc__).split()[0]
    assert first in capsys.readouterr().out
