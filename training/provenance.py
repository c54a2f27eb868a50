"""Where a number comes from: commit, date, machine, command."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path

from world_env.spec import JSON


def current_commit() -> str | None:
    """The commit of the checkout that runs, with "+" where tracked files are changed; None outside one."""
    return _git("rev-parse", "HEAD", suffix=True)


def facts() -> JSON:
    """{"commit", "date", "machine", "command"} of this process."""
    return {
        "commit": current_commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "command": " ".join(["python", *(_relative(word) for word in sys.argv)]),
    }


def _git(*words: str, suffix: bool = False) -> str | None:
    folder = Path(__file__).parent
    try:
        run = lambda *args: subprocess.run(  # noqa: E731
            ["git", *args], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
        answer = run(*words)
        # Results are what is being written: they do not make the code that writes them another one.
        changed = suffix and run(
            "status",
            "--porcelain",
            "--untracked-files=no",
            "--",
            ":(top)",
            ":(top,exclude)benchmarks/results",
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer + ("+" if changed else "")


def _relative(word: str) -> str:
    """Paths of this machine are nobody's business: inside the checkout relative, elsewhere the name."""
    path = Path(word)
    if not path.is_absolute():
        return word
    root = Path(__file__).resolve().parents[1]
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name
