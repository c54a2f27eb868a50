"""Settings of a run: read from a file, stored in the folder of the run, compared when it is resumed."""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from filelock import FileLock, Timeout

from world_env.atomic_io import write_json
from world_env.errors import ConfigMismatchError, InvalidOptionError, StageBusyError, StageError
from world_env.types import JSON

_P = ParamSpec("_P")
_R = TypeVar("_R")

CONFIG_FILE = "config.json"
"""Name of the settings of a run, in its folder."""
MAY_CHANGE = {"out", "shard_steps", "tensorboard", "max_real_steps", "allow_errors"}
"""Settings of any stage that may differ when a run is resumed: they do not change its results. Names of nested settings
are not among them: an environment may have an argument `out`."""
_MAX_TEXT = 200


def read_config(path: Path) -> JSON:
    """Read settings from a TOML or JSON file. Raises InvalidOptionError if it is neither."""
    tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        text = Path(path).read_text(encoding="utf-8")
        tree = json.loads(text) if Path(path).suffix == ".json" else tomllib.loads(text)
        if not isinstance(tree, dict):
            raise ValueError(f"expected an object, got {tree!r:.80}")
    except (OSError, ValueError) as error:
        raise InvalidOptionError(
            f"cannot read the settings in {path} ({error}): expected a TOML file, or a .json file"
        ) from error
    return tree


def check_names(names: Iterable[str], known: Collection[str], where: str) -> None:
    """Raise InvalidOptionError for a name that is not among the known ones, with the nearest of them.

    where: name of the source in the message.
    """
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise InvalidOptionError(
                f"{where} has the unknown setting {name!r}, expected one of {', '.join(known)}{hint}"
            )


def keep_config(
    folder: Path,
    config: JSON,
    *,
    may_change: Collection[str] = (),
    results: Collection[str] = (),
) -> None:
    """Store the settings of a new run; check those of an earlier run in the same folder.

    may_change: names of settings that may differ, besides `MAY_CHANGE`; the newer ones are stored. A nested setting is
        named with dots, "refinement.patience".
    results: patterns of the results of a run. A folder that holds any of them without settings is refused.
    Raises ConfigMismatchError for other settings, StageError for a damaged file or for results without settings.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        _check_no_results(Path(folder), results)
    else:
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(stored, dict):
                raise ValueError("not an object")
        except (OSError, ValueError) as error:
            raise StageError(
                f"{path} cannot be read ({error}): restore it, or choose another folder"
            ) from error
        unknown = [name for name in stored if name not in config]
        if unknown:
            raise ConfigMismatchError(
                f"{path} has the settings {', '.join(unknown)}, which this command does not have: the folder is that "
                "of another command, or the file was edited. Choose another folder."
            )
        check_same_config(stored, config, folder, may_change=may_change)
        if stored == config:
            return
    write_json(path, config)


def _check_no_results(folder: Path, patterns: Collection[str]) -> None:
    found = sorted(path.name for pattern in patterns for path in folder.glob(pattern))
    if found:
        raise StageError(
            f"{folder} holds {', '.join(found[:3])} of an earlier run, but not its settings ({CONFIG_FILE}): they "
            "could be those of another environment. Restore the file, choose another folder, or delete this one."
        )


def check_same_config(
    stored: Mapping[str, Any],
    config: Mapping[str, Any],
    folder: Path,
    *,
    may_change: Collection[str] = (),
) -> None:
    """Raise ConfigMismatchError, with the settings that differ, unless a folder holds a run with these settings.

    stored, config: settings of the run in the folder, and of this run, as JSON trees.
    may_change: as in `keep_config`.
    """
    changed = list(_differences(stored, config, {*MAY_CHANGE, *may_change}))
    if changed:
        raise ConfigMismatchError(
            f"{folder} holds results of other settings: {'; '.join(changed)}. Use the same settings to resume, choose "
            "another folder, or delete this one to start from scratch."
        )


def _differences(
    stored: Any, now: Any, may_change: Collection[str], name: str = ""
) -> Iterable[str]:
    """Text for each leaf that differs: "fit.seed was 0, now 1"."""
    if isinstance(stored, Mapping) and isinstance(now, Mapping):
        for key in {**stored, **now}:
            inner = f"{name}.{key}" if name else str(key)
            if inner not in may_change:
                yield from _differences(stored.get(key), now.get(key), may_change, inner)
    elif stored != now:
        yield f"{name} was {_short(stored)}, now {_short(now)}"


@contextmanager
def stage_lock(folder: Path) -> Iterator[None]:
    """Lock the output folder of a stage, so that no other process or thread runs a stage there.

    The operating system releases the lock of a killed process. A stage that made no folder leaves no lock file.
    Raises StageBusyError if it is taken.
    """
    target = Path(folder).resolve()
    path = target.with_name(f".{target.name}.stage.lock")
    lock = FileLock(path, blocking=False)
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise StageBusyError(
            f"another process is writing to {folder}: wait until it has finished, or choose another folder. Nothing "
            "was done."
        ) from error
    except OSError:
        # Without permission to write, no process writes here. A stage that has to write names the folder itself.
        yield
        return
    try:
        yield
    finally:
        if not target.exists():
            # Before the release: whoever opens the file from now on has another one.
            with suppress(OSError):
                path.unlink()
        lock.release()
        with suppress(OSError):  # the first one that is not empty
            for parent in missing:
                parent.rmdir()


def one_at_a_time(
    folder: Callable[..., str | Path | None],
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorate a stage: a second call for the same output folder raises StageBusyError while the first one runs.

    folder: the output folder of a call, from its arguments; None: no folder, no lock.
    """

    def decorate(stage: Callable[_P, _R]) -> Callable[_P, _R]:
        @wraps(stage)
        def locked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            out = folder(*args, **kwargs)
            if out is None:
                return stage(*args, **kwargs)
            with stage_lock(Path(out)):
                return stage(*args, **kwargs)

        return locked

    return decorate


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + " ..."
