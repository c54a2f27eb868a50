"""Settings of a run: read from a file, stored in the folder of the run, compared when it is resumed."""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from world_env.atomic_io import write_json
from world_env.errors import ConfigMismatchError, InvalidOptionError, StageError
from world_env.types import JSON

CONFIG_FILE = "config.json"
"""Name of the settings of a run, in its folder."""
MAY_CHANGE = {"out", "shard_steps", "tensorboard", "allow_errors"}
"""Settings of any stage that may differ when a run is resumed: they do not change its results."""
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


def keep_config(folder: Path, config: JSON, *, may_change: Collection[str] = ()) -> None:
    """Store the settings of a new run; check those of an earlier run in the same folder.

    may_change: names of settings that may differ, besides `MAY_CHANGE`; the newer ones are stored.
    Raises ConfigMismatchError for other settings, StageError for a damaged file.
    """
    path = Path(folder) / CONFIG_FILE
    if path.is_file():
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


def check_same_config(
    stored: Mapping[str, Any],
    config: Mapping[str, Any],
    folder: Path,
    *,
    may_change: Collection[str] = (),
) -> None:
    """Raise ConfigMismatchError, with the settings that differ, unless a folder holds a run with these settings.

    stored, config: settings of the run in the folder, and of this run, as JSON trees.
    may_change: names of settings that may differ, besides `MAY_CHANGE`.
    """
    before, now = ({n: v for n, v in t.items() if n not in may_change} for t in (stored, config))
    changed = list(_differences(before, now))
    if changed:
        raise ConfigMismatchError(
            f"{folder} holds results of other settings: {'; '.join(changed)}. Use the same settings to resume, choose "
            "another folder, or delete this one to start from scratch."
        )


def _differences(stored: Any, now: Any, name: str = "") -> Iterable[str]:
    """Text for each leaf that differs: "fit.seed was 0, now 1"."""
    if isinstance(stored, Mapping) and isinstance(now, Mapping):
        for key in {**stored, **now}:
            if key in MAY_CHANGE:
                continue
            inner = f"{name}.{key}" if name else str(key)
            yield from _differences(stored.get(key), now.get(key), inner)
    elif stored != now:
        yield f"{name} was {_short(stored)}, now {_short(now)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + " ..."
