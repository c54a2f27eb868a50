"""Command lines of the benchmarks: a parser with the options that most scripts share."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keep the lines of the description; append defaults that have a value."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        shown = isinstance(action.default, str | list | Path | float) or type(action.default) is int
        if not shown or "(default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


def script_parser(
    description: str | None,
    benchmark: str | None = None,
    *,
    tasks: Iterable[str] = (),
    default_tasks: Iterable[str] = (),
    seeds: Iterable[int] = (),
    seed_choices: Iterable[int] | None = None,
    resume: bool = False,
) -> argparse.ArgumentParser:
    """Parser of a script with --out, and --tasks, --seeds and --resume if they are given.

    description: docstring of the script. benchmark: name of its results file. tasks, default_tasks: all tasks and
    those of a run without --tasks (empty: all). seeds, seed_choices: default seeds, and the allowed ones (None: any).
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=_Formatter)
    tasks, seeds = list(tasks), list(seeds)
    if tasks:
        parser.add_argument(
            "--tasks",
            nargs="+",
            metavar="TASK",
            choices=tasks,
            default=list(default_tasks) or tasks,
            help=f"tasks to measure, of {', '.join(tasks)}",
        )
    if seeds:
        allowed = None if seed_choices is None else list(seed_choices)
        parser.add_argument(
            "--seeds",
            nargs="+",
            type=int,
            metavar="SEED",
            choices=allowed,
            default=seeds,
            help="seeds of data, fit and policies"
            + (f", from {allowed[0]} to {allowed[-1]}" if allowed else ""),
        )
    if resume:
        text = "keep the rows of the results file and skip those (default: replace the file)"
        parser.add_argument("--resume", action="store_true", help=text)
    if benchmark:
        out = Path(f"benchmarks/results/{benchmark}.json")
        parser.add_argument("--out", type=Path, default=out, help="results file to write")
    return parser


def option(
    parser: argparse.ArgumentParser,
    name: str,
    default: int | float | str | Iterable[int | float | str],
    text: str,
    choices: Iterable[str] | None = None,
) -> None:
    """Add an option of the type of its default; several values if the default has several."""
    values = [default] if isinstance(default, int | float | str) else list(default)
    several = values != [default]
    parser.add_argument(
        name,
        type=type(values[0]),
        nargs="+" if several else None,
        default=values if several else default,
        choices=None if choices is None else list(choices),
        help=text,
    )
