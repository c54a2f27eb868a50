"""Base class of settings and results: strict JSON in both directions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from world_env.errors import InvalidOptionError, WorldEnvError
from world_env.types import JSON

_Self = TypeVar("_Self", bound="Struct")


class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable settings or results of a stage, with strict JSON in both directions.

    Constructors do not check the types of fields; `__post_init__` checks their values, and runs in `from_json` too.
    """

    def to_json(self) -> JSON:
        """Return the fields as a strict JSON tree: paths are text, NaN and infinity are None.

        Raises InvalidOptionError for a value without a JSON form, such as a function.
        """
        return _finite(msgspec.to_builtins(self, enc_hook=_encode))  # type: ignore[no-any-return]

    @classmethod
    def from_json(
        cls: type[_Self],
        tree: Any,
        *,
        where: str,
        error: type[WorldEnvError] = InvalidOptionError,
    ) -> _Self:
        """Return the inverse of `to_json`.

        where: name of the source in errors, such as the path of a file.
        Raises `error` for missing or unknown fields, and for values of another type or out of range.
        """
        return converted(tree, cls, where=where, error=error)  # type: ignore[no-any-return]

    def replace(self: _Self, **changes: Any) -> _Self:
        """Return a copy with other values of some fields."""
        return msgspec.structs.replace(self, **changes)

    def updated(self: _Self, changes: JSON, *, where: str) -> _Self:
        """Return a copy with the values of a JSON tree; of a nested struct only the given fields change.

        where: name of the source of the changes in errors. Raises InvalidOptionError, as `from_json`.
        """
        tree = self.to_json()
        for name, value in changes.items():
            own = getattr(self, name, None)
            # A value with a tag names its class, so all fields are new.
            if (
                isinstance(own, Struct)
                and isinstance(value, dict)
                and not own.__struct_config__.tag
            ):
                value = own.updated(value, where=f"{where}: {name}").to_json()
            tree[name] = value
        return self.from_json(tree, where=where)


def converted(
    tree: Any, kind: Any, *, where: str, error: type[WorldEnvError] = InvalidOptionError
) -> Any:
    """Return a JSON tree as a value of the type `kind`. Raises `error`, with the name `where` of the source."""
    try:
        return msgspec.convert(tree, kind, dec_hook=_decode)
    except (msgspec.ValidationError, WorldEnvError) as problem:
        raise error(f"{where}: {problem}") from problem


def _encode(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise InvalidOptionError(
        f"{value!r:.80} ({type(value).__name__}) has no JSON form: expected numbers, text, lists, dicts or paths"
    )


def _decode(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"Expected a path (`str`), got {value!r:.80}")


def _finite(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
