"""The command line of every benchmark: a help text for every option, and commands in the docs that parse."""

import argparse
import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [
    *(
        "join",
        "tables",
        "returns.returns",
        "returns.demo_seeds",
        "returns.toy_text",
        "returns.tuning",
        "refinement.refined",
        "sample_efficiency.sample_efficiency",
        "sample_efficiency.svg_critics",
    ),
    *("agreement.agreement", "agreement.misses", "families.families", "families.one_frame"),
    "families.history",
    *("diagnostics.lint", "diagnostics.alarm", "diagnostics.uncertainty", "diagnostics.scales"),
    *("learning.learn_table", "speed.steps_per_second", "speed.parts", "speed.gpu"),
    *("speed.fit_speed", "speed.fit_memory", "speed.ppo_speed", "speed.svg_speed"),
]
READMES = sorted((ROOT / "benchmarks").rglob("README.md"))
COMMAND = re.compile(r"^ *python -m benchmarks\.([\w.]+)(.*?)(?: +#.*)?$", re.M)


def texts(name: str) -> list[str]:
    module = importlib.import_module(f"benchmarks.{name}")
    pages = "".join(path.read_text(encoding="utf-8") for path in READMES)
    return [
        words for script, words in COMMAND.findall(f"{module.__doc__}\n{pages}") if script == name
    ]


@pytest.fixture
def parser(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> argparse.ArgumentParser:
    """The parser that a script makes before it does anything else."""
    made: list[argparse.ArgumentParser] = []

    def parse_args(self: argparse.ArgumentParser, *_: object) -> None:
        made.append(self)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        patch.setattr(sys, "argv", ["script"])
        with pytest.raises(SystemExit):
            importlib.import_module(f"benchmarks.{request.param}").main()
    return made[0]


def test_every_script_is_listed() -> None:
    found = {
        path.relative_to(ROOT / "benchmarks").with_suffix("").as_posix().replace("/", ".")
        for path in (ROOT / "benchmarks").rglob("*.py")
        if "= script_parser(" in path.read_text(encoding="utf-8")
    }
    assert found == set(SCRIPTS)


@pytest.mark.parametrize("parser", SCRIPTS, indirect=True)
def test_every_option_has_a_help_text(parser: argparse.ArgumentParser) -> None:
    assert parser.format_help()
    assert all(action.help for action in parser._actions)


@pytest.mark.parametrize(("parser", "name"), [(n, n) for n in SCRIPTS], indirect=["parser"])
def test_documented_commands_parse(parser: argparse.ArgumentParser, name: str) -> None:
    commands = texts(name)
    assert commands, "neither the docstring nor a README shows how to run it"
    for words in commands:
        parser.parse_args(shlex.split(words))


def test_readmes_are_short() -> None:
    assert len(READMES) == 10
    for path in READMES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 30, path
