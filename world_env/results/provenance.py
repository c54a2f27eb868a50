"""Provenance of results and twins: code, machine, real environment, data and settings."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from world_env.spec import EnvConfig
from world_env.struct import Struct
from world_env.types import JSON


class Facts(Struct, frozen=True, kw_only=True):
    """Process that made a result; None where unknown."""

    commit: str | None = None
    """Commit of the checkout, with "+" if tracked files were modified."""
    date: str | None = None
    """Day in UTC."""
    machine: str | None = None
    """Processor architecture, number of cores, Python version."""
    command: str | None = None
    """Command line without private paths."""


class Provenance(Facts, omit_defaults=True, frozen=True, kw_only=True):
    """Origin of a twin: its data and its settings. Fields that are not recorded have their defaults."""

    real: EnvConfig | None = None
    """Real environment that the data comes from; None: the data came without one that can be made again."""
    exploration: list[JSON] | None = None
    """Explorations that collected the data in turn, each an `ExplorationConfig` as JSON."""
    real_steps: int | dict[str, int] | None = None
    """Real environment steps of the data, in total or by purpose."""
    seeds: list[int] = []
    """Seeds of the run."""
    steps: int | None = None
    """Steps of the data."""
    episodes: int | None = None
    """Episodes of the data."""
    trained_on: list[str] | None = None
    """Digests of the training episodes."""
    validated_on: list[str] | None = None
    """Digests of the episodes of the validation split."""
    fit_seconds: float | None = None
    """Duration of the fit."""
    warm_start: str | None = None
    """Fingerprint of the twin whose weights were the initial ones."""
    stages: dict[str, JSON] = {}
    """Stage -> its settings, which the stage itself decodes: "data" (collection or data set) and "fit"."""

    def recorded(self, stage: str, name: str) -> Any:
        """Entry of the settings of a stage; None if it is not recorded."""
        return self.stages.get(stage, {}).get(name)


def current_commit() -> str | None:
    """Commit of the running checkout, with "+" if tracked files are modified; None outside a checkout."""
    commit = _git("rev-parse", "HEAD")
    # A benchmark writes its results while it runs: new results are no change of the code.
    code = (":(top)", ":(top,exclude)benchmarks/results")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", *code)
    return None if commit is None or changed is None else commit + ("+" if changed else "")


def facts() -> Facts:
    """Return the commit, date, machine and command of this process."""
    return Facts(
        commit=current_commit(),
        date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        machine=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        command=" ".join(["python", *_program(), *map(_relative, sys.argv[1:])]),
    )


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
    root = Path(__file__).resolve().parents[2]
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
    root = Path(__file__).resolve().parents[2]
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name
