"""Base class of settings and results: strict JSON in both directions."""

from __future__ import annotations

import functools
import math
import types
from pathlib import Path
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin

import msgspec
import numpy as np
from typing_extensions import dataclass_transform

from world_env.errors import InvalidOptionError, WorldEnvError
from world_env.types import JSON

_Self = TypeVar("_Self", bound="Struct")

_MAX_REPR = 80


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable settings or results of a stage, with strict JSON in both directions.

    Constructors do not check the types of fields; `__post_init__` checks their values, and runs in `from_json` too.
    """

    omitted_if_none: ClassVar[tuple[str, ...]] = ()
    """Names of fields that the JSON form leaves out where they are None."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Let every subclass take numpy numbers, before the checks of its own `__post_init__`."""
        super().__init_subclass__(**options)
        own = cls.__dict__.get("__post_init__")
        if own is None:
            return

        @functools.wraps(own)
        def checked(self: Struct) -> None:
            take_numbers(self)
            own(self)

        type.__setattr__(cls, "__post_init__", checked)

    def __post_init__(self) -> None:
        take_numbers(self)

    def __repr__(self) -> str:
        """The fields, long values cut. `to_json` has all of them."""
        values = ", ".join(
            f"{name}={_shown(getattr(self, name))}" for name in self.__struct_fields__
        )
        return f"{type(self).__name__}({values})"

    def to_json(self) -> JSON:
        """Return the fields as a strict JSON tree: paths are text, NaN and infinity are None.

        Raises InvalidOptionError for a value without a JSON form, such as a function.
        """
        tree = msgspec.to_builtins(self, enc_hook=_encode)
        _leave_out(self, tree)
        return _finite(tree)  # type: ignore[no-any-return]

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


def take_numbers(settings: Struct) -> None:
    """Replace numpy numbers by those of Python, in the fields that hold one number.

    Raises InvalidOptionError, with the name of the field, for a value that is no number, or no integer where one is
    expected.
    """
    for name, kind, optional in _number_fields(type(settings)):
        value = getattr(settings, name)
        if type(value) is kind or (value is None and optional):
            continue
        number = integer(value, name) if kind is int else _number(value, name)
        if number is not value:
            msgspec.structs.force_setattr(settings, name, number)


def integer(value: Any, name: str) -> int:
    """Return an integer, or a float without a fraction such as 1e5, as an int. Raises InvalidOptionError.

    name: of the argument, for the message.
    """
    number = _item(value)
    whole = isinstance(number, float) and number.is_integer()
    if not whole and (isinstance(number, bool) or not isinstance(number, int)):
        raise InvalidOptionError(f"{name} is {value!r:.80}, expected an integer")
    return int(number)


def _number(value: Any, name: str) -> float:
    number = _item(value)
    if not isinstance(number, int | float):
        raise InvalidOptionError(f"{name} is {value!r:.80}, expected a number")
    return number


def _item(value: Any) -> Any:
    """The number in a numpy scalar or in an array of one number."""
    one = isinstance(value, np.generic | np.ndarray) and value.size == 1
    return value.item() if one else value


@functools.cache
def _number_fields(kind: type[Struct]) -> tuple[tuple[str, type, bool], ...]:
    """Fields of one number: (name, int or float, whether it may be None)."""
    found = []
    for each in msgspec.structs.fields(kind):
        union = get_origin(each.type) in (Union, types.UnionType)
        kinds = set(get_args(each.type) if union else (each.type,))
        numbers = kinds - {type(None)}
        if numbers in ({int}, {float}):
            found.append((each.name, numbers.pop(), type(None) in kinds))
    return tuple(found)


def plain(value: Any) -> Any:
    """Replace numpy numbers and arrays inside dicts, lists and tuples by those of Python."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value))
    return _encode(value) if isinstance(value, np.generic | np.ndarray) else value


def shortened(value: Any) -> str:
    """The repr of a value for a message: one line of at most 80 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _MAX_REPR else f"{text[: _MAX_REPR - 3]}..."


def _shown(value: Any) -> str:
    """The repr of a field; structs cut their own values."""
    if isinstance(value, tuple | list) and any(isinstance(each, Struct) for each in value):
        parts = ", ".join(map(_shown, value))
        return f"[{parts}]" if isinstance(value, list) else f"({parts},)"
    return repr(value) if isinstance(value, Struct) else shortened(value)


def _leave_out(value: Any, tree: Any) -> None:
    """Remove from the JSON tree of a value the fields of `omitted_if_none` that are None, in nested structs too."""
    if isinstance(value, Struct):
        for name in value.__struct_fields__:
            if name in value.omitted_if_none and getattr(value, name) is None:
                del tree[name]
            elif name in tree:  # some structs leave out all defaults
                _leave_out(getattr(value, name), tree[name])
    elif isinstance(value, list | tuple):
        for inner, branch in zip(value, tree, strict=True):
            _leave_out(inner, branch)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, Struct):
                _leave_out(inner, tree[key])


def _encode(value: Any) -> Any:
    if isinstance(value, str):  # a subclass, which carries more than its text
        return str(value)
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
