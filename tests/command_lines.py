"""Shell lines of the README and of the documentation: whether the command line takes them."""

import functools
from typing import Any

import tyro

from world_env.cli.main import COMMANDS, json_fields, load_command


def parse(words: list[str]) -> str:
    """The command that a line means; SystemExit where it is not valid. Nothing is run."""
    if words[0] in ("--help", "--version"):
        return words[0]
    if words[0] not in COMMANDS:
        raise SystemExit(f"unknown command {words[0]!r}")
    ran: list[str] = []
    function = load_command(words[0])

    @functools.wraps(function)
    def record(*_: Any, **__: Any) -> None:
        ran.append(words[0])

    with json_fields():
        tyro.cli(record, prog=f"world-env {words[0]}", args=words[1:])
    (name,) = ran
    return name
