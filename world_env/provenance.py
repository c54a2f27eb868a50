"""Provenance of a result: commit, date, machine and command."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path

from world_env.types import JSON


def current_commit() -> str | None:
    """Commit of the running checkout, with "+" if tracked files are modified; None outside a checkout."""
    commit = _git("rev-parse", "HEAD")
    # A benchmark writes its results while it runs: new results are no change of the code.
    code = (":(top)", ":(top,exclude)benchmarks/results")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", *code)
    return None if commit is None or changed is None else commit + ("+" if changed else "")


def facts() -> JSON:
    """Provenance of this process: {"commit", "date", "machine", "command"}."""
    return {
        "commit": current_commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "command": " ".join(["python", *_program(), *map(_relative, sys.argv[1:])]),
    }


def _git(*words: str) -> str | None:
    """Output of a git command in this checkout; None if git fails or is not installed."""
    try:
        return subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _program() -> list[str]:
    """Arguments that started this process: `-m package.module`, or the path of a script."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    root = Path(__file__).resolve().parents[1]
    if spec is not None and spec.origin:
        own = root / spec.name.partition(".")[0]
        if Path(spec.origin).is_relative_to(own):
            return ["-m", spec.name]
    return [_relative(sys.argv[0])]


def _relative(word: str) -> str:
    """An argument without private paths: relative inside the checkout, else only the last part of the path."""
    path = Path(word)
    if not path.is_absolute():
        return word
    root = Path(__file__).resolve().parents[1]
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name
