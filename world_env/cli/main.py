"""The command `world-env`. Its help needs no parser and no stage: commands stand in a static table."""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import world_env
from world_env.errors import WorldEnvError

_PIP = 'pip install "world-env[train]"'


class Command(NamedTuple):
    """One command: where its function is, and one line of help."""

    module: str
    function: str
    help: str


COMMANDS: dict[str, Command] = {
    "build": Command(
        "commands", "build_command", "Run the whole pipeline on an environment: twin, policy, page."
    ),
    "demo": Command("commands", "demo_command", "Run the whole pipeline on CartPole."),
    "collect": Command("commands", "collect_command", "Collect episodes of a real environment."),
    "lint": Command("data_commands", "lint_command", "Check episodes before a twin is fitted."),
    "fit": Command("commands", "fit_command", "Fit a twin to episodes."),
    "learn": Command(
        "commands", "learn_command", "Train a policy in a twin or in the real environment."
    ),
    "refine": Command(
        "commands", "refine_command", "Repeat collection, fitting and policy training in rounds."
    ),
    "compare": Command(
        "evaluation_commands", "compare_command", "Compare learned and real returns of policies."
    ),
    "pool": Command(
        "evaluation_commands",
        "pool_command",
        "Train policies in the real environment, to evaluate twins.",
    ),
    "report": Command("evaluation_commands", "report_command", "Write the report page."),
    "watch": Command(
        "evaluation_commands",
        "watch_command",
        "Record a video of a policy in the twin and in the real environment.",
    ),
    "futures": Command(
        "evaluation_commands",
        "futures_command",
        "Record a video of several learned rollouts from one real state.",
    ),
    "export": Command(
        "export_command",
        "export_command",
        "Export a policy or a twin to a file: ONNX, Stable-Baselines3.",
    ),
    "twins": Command("commands", "twins_command", "List the bundled twins."),
}
"""Name -> command."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 for a user's error, 130 for an interrupt."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0
    if words[0] == "--version":
        print(f"world-env {world_env.__version__}")
        return 0
    name, rest = words[0], words[1:]
    # "my_env:MyEnv-v0" is found in the working directory, as by `python -m`; it hides nothing that is installed.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    if name not in COMMANDS:
        print(f"world-env: {_unknown(name)}", file=sys.stderr)
        return 2
    try:
        from world_env.cli.options import VIEWS, View, parse

        function = load_command(name)
    except ImportError as error:
        print(
            f"world-env: {error.name or error} is not installed, but `world-env {name}` needs it: {_PIP}",
            file=sys.stderr,
        )
        return 1
    # What a stage logs, such as which update trains a policy, stands above its progress bar.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("world_env").setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            config = parse(function, rest, prog=f"world-env {name}", view=VIEWS.get(name, View()))
            status = function(config)
    except WorldEnvError as error:
        print(f"world-env: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, SystemError) as error:
        # An interrupt inside compiled code (numba) arrives as the cause of a SystemError.
        if not any(isinstance(each, KeyboardInterrupt) for each in (error, error.__cause__)):
            raise
        print("world-env: interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    except Exception as error:
        from world_env.real.gate import environment_note

        found = environment_note(error)
        if found is None:
            raise
        note, inside = found
        print(f"Traceback of the environment:\n{inside}", end="", file=sys.stderr)
        print(f"world-env: {type(error).__name__}: {error} ({note})", file=sys.stderr)
        return 1
    return int(status or 0)


def usage() -> str:
    """The help of the command itself."""
    width = max(map(len, [*COMMANDS, "-h, --help"])) + 2
    return "\n".join(
        [
            "usage: world-env COMMAND [OPTIONS]",
            "",
            "Learned simulators of Gymnasium environments (twins): fit them, train policies in them, and compare",
            "learned with real returns.",
            "",
            "commands:",
            *(f"  {name:{width}}{command.help}" for name, command in COMMANDS.items()),
            "",
            "options:",
            f"  {'-h, --help':{width}}show this help; `world-env COMMAND --help` shows the options of a command",
            f"  {'--version':{width}}show the version",
            "",
            "build, demo, compare and pool write to the folder runs/ by default ($WORLD_ENV_RUNS changes it).",
            "Commands use one thread unless OMP_NUM_THREADS is set.",
        ]
    )


def load_command(name: str) -> Callable[[Any], int | None]:
    """The function of a command. Raises ImportError where an optional package is missing."""
    command = COMMANDS[name]
    module = importlib.import_module(f"world_env.cli.{command.module}")
    return getattr(module, command.function)  # type: ignore[no-any-return]


def set_threads() -> None:
    """One thread for torch, or as many as OMP_NUM_THREADS says."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any
) -> None:
    """Print a warning without the line of the library that raised it."""
    print(f"warning: {message}", file=sys.stderr)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f" Did you mean `world-env {near[0]}`?" if near else ""
    return f"unknown command {name!r}, expected one of {', '.join(COMMANDS)}.{hint}"


if __name__ == "__main__":
    sys.exit(main())
