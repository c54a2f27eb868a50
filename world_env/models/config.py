"""Configurations of model families as JSON: a `Struct`, or a frozen dataclass of a plug-in, that may hold others."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import msgspec

from world_env.errors import InvalidOptionError, WorldEnvError
from world_env.struct import plain
from world_env.types import JSON


def config_to_json(config: Any) -> JSON:
    """Return the fields of a configuration. Raises TypeError for a value without a JSON form."""
    if isinstance(config, type) or not (
        isinstance(config, msgspec.Struct) or dataclasses.is_dataclass(config)
    ):
        raise TypeError(f"{config!r:.80} is not a Struct or a dataclass")
    return msgspec.to_builtins(_fields(config))  # type: ignore[no-any-return]


def config_from_json(
    config_class: type[Any],
    tree: JSON,
    *,
    where: str,
    error: type[WorldEnvError] = InvalidOptionError,
) -> Any:
    """Return the inverse of `config_to_json`.

    where: name of the source in errors.
    Raises `error` with the path of a field that is missing, unknown, of another type or out of range.
    """
    expected = f"expected fields among {list(inspect.signature(config_class).parameters)}"
    try:
        config = msgspec.convert(plain(tree), config_class)
    except (msgspec.ValidationError, WorldEnvError) as problem:
        raise error(f"{where}: {problem} ({expected})") from problem
    # msgspec ignores unknown fields of dataclasses.
    unknown = _unknown(tree, config_to_json(config), "$")
    if unknown:
        raise error(f"{where}: unknown field `{unknown}` ({expected})")
    return config


def _unknown(tree: Any, known: Any, path: str) -> str | None:
    """Return the path of the first field of a JSON tree that is not in the tree `known`."""
    if isinstance(tree, dict) and isinstance(known, dict):
        parts = [(f"{path}.{key}", value, known.get(key)) for key, value in tree.items()]
        new = [f"{path}.{key}" for key in tree if key not in known]
    elif isinstance(tree, list | tuple) and isinstance(known, list | tuple):
        parts = [(f"{path}[{i}]", *pair) for i, pair in enumerate(zip(tree, known, strict=False))]
        new = []
    else:
        return None
    below = (_unknown(value, part, where) for where, value, part in parts)
    return next(iter(new), None) or next((each for each in below if each), None)


def _fields(value: Any) -> Any:
    """Return configurations inside a value as dicts of all their fields.

    msgspec leaves out fields of a converted dataclass that have their default.
    """
    if isinstance(value, msgspec.Struct):
        names = zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
        tree = {encoded: _fields(getattr(value, name)) for name, encoded in names}
        tag = value.__struct_config__
        return tree if tag.tag is None else {str(tag.tag_field): tag.tag, **tree}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _fields(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _fields(part) for key, part in value.items()}
    return [_fields(part) for part in value] if isinstance(value, list | tuple) else value
