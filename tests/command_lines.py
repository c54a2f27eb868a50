"""Shell lines of the README and of the documentation: whether the command line takes them."""

from world_env.cli.main import COMMANDS, load_command
from world_env.cli.options import VIEWS, View, parse as parse_options

TINY_LEARNING = ["--steps", "64", "--num-envs", "1", "--algo", "DQN"]
"""Options of the smallest training."""


def parse(words: list[str]) -> str:
    """The command that a line means; SystemExit where it is not valid. Nothing is run."""
    if words[0] in ("--help", "--version"):
        return words[0]
    if words[0] not in COMMANDS:
        raise SystemExit(f"unknown command {words[0]!r}")
    view = VIEWS.get(words[0], View())
    parse_options(load_command(words[0]), words[1:], prog=f"world-env {words[0]}", view=view)
    return words[0]
