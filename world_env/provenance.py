"""Where a number comes from: commit, date, machine, command."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path

from world_env.types import JSON


def current_commit() -> str | None:
    """The commit of the checkout that runs, with "+" where tracked files are changed; None outside one."""
    commit = _git("rev-parse", "HEAD")
    # Results are what is being written: they do not make the code that writes them another one.
    code = (":(top)", ":(top,exclude)benchmarks/results")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", *code)
    return None if commit is None or changed is None else commit + ("+" if changed else "")


def facts() -> JSON:
    """{"commit", "date", "machine", "command"} of this process."""
    return {
        "commit": current_commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "command": " ".join(["python", *_program(), *map(_relative, sys.argv[1:])]),
    }


def _git(*words: str) -> str | None:
    """What git prints about this checkout; None where it cannot say."""
    try:
        return subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _program() -> list[str]:
    """How this process was started: `-m package.module`, or the path of a script."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    root = Path(__file__).resolve().parents[1]
    if spec is not None and spec.origin:
        own = root / spec.name.partition(".")[0]
        if Path(spec.origin).is_relative_to(own):
            return ["-m", spec.name]
    return [_relative(sys.argv[0])]


def _relative(word: str) -> str:
    """Paths of this machine are nobody's business: inside the checkout relative, elsewhere the name."""
    path = Path(word)
    if not path.is_absolute():
        return word
    root = Path(__file__).resolve().parents[1]
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name
