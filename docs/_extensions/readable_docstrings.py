"""Sphinx extension: render docstrings of plain text and Markdown code spans as reStructuredText.

The docstrings of the library hold paragraphs, items of the form ``name: meaning`` with indented
continuation lines, code spans in single backticks, and indented blocks. This module turns items into
lists and blocks into literal blocks, and escapes characters that reStructuredText would interpret.
"""

from __future__ import annotations

import dataclasses
import pkgutil
import re
from typing import Any

import msgspec
from sphinx.pycode import ModuleAnalyzer

_ITEM = re.compile(r"^(`?[A-Za-z_][\w.]*`?(?:, `?[A-Za-z_][\w.]*`?)*): +(\S.*)$")
_BULLET = re.compile(r"^[-*] +")
_SECTION = re.compile(r"^(Args|Arguments|Attributes|Raises|Returns|Yields|Example|Examples):$")
_CODE = re.compile(r"(``.+?``|`[^`]+`)")


def setup(app: Any) -> dict[str, bool]:
    """Register the hooks of autodoc."""
    app.connect("autodoc-process-docstring", _process_docstring)
    app.connect("autodoc-process-signature", _process_signature)
    app.connect("autodoc-skip-member", _skip_member)
    return {"parallel_read_safe": True}


def to_rst(lines: list[str]) -> list[str]:
    """A docstring, dedented, as lines of reStructuredText."""
    result: list[str] = []
    for block in _blocks(lines):
        result += [*_render(block), ""]
    return result


def _blocks(lines: list[str]) -> list[list[str]]:
    """Groups of lines: cut at empty lines, where indentation begins, and at every item."""
    blocks: list[list[str]] = []
    fresh = True
    for line in lines:
        if not line.strip():
            fresh = True
            continue
        starts = bool(_ITEM.match(line) or _BULLET.match(line) or _SECTION.match(line.strip()))
        in_item = bool(blocks) and bool(_ITEM.match(blocks[-1][0]) or _BULLET.match(blocks[-1][0]))
        ends_item = in_item and not line.startswith(" ")
        if fresh and line.startswith(" ") and in_item:
            blocks[-1].append(line)
        elif fresh or starts or ends_item:
            blocks.append([line])
        else:
            blocks[-1].append(line)
        fresh = False
    return blocks


def _render(block: list[str]) -> list[str]:
    first = block[0]
    if section := _SECTION.match(first.strip()):
        rest = _dedented(block[1:])
        return [f"**{section[1]}**", "", *to_rst(rest)]
    if all(line.startswith("    ") for line in block):
        items = _dedented(block)
        if all(_ITEM.match(line) or line.startswith(" ") for line in items):
            return to_rst(items)
        return ["::", "", *("    " + line for line in items)]
    if match := _ITEM.match(first):
        names = ", ".join(f"``{name.strip('`')}``" for name in match[1].split(", "))
        text = " ".join([match[2], *(line.strip() for line in block[1:])])
        return [f"* {names}: {_escaped(text)}"]
    if bullet := _BULLET.match(first):
        text = " ".join([first[bullet.end() :], *(line.strip() for line in block[1:])])
        return [f"* {_escaped(text)}"]
    # An indented block right below a paragraph is code or a table of names.
    indented = next((n for n, line in enumerate(block) if line.startswith("    ")), len(block))
    text = " ".join(line.strip() for line in block[:indented])
    if indented == len(block):
        return [_escaped(text)]
    code = [f"    {line}" for line in _dedented(block[indented:])]
    return [_escaped(text), "", "::", "", *code]


def _dedented(lines: list[str]) -> list[str]:
    width = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return [line[width:] for line in lines]


def _escaped(text: str) -> str:
    """Text whose code spans are literals and whose other characters are taken as they are."""
    parts = _CODE.split(text)
    for number, part in enumerate(parts):
        if number % 2:
            parts[number] = f"``{part.strip('`')}``"
        else:
            parts[number] = re.sub(r"([\\*|`]|_(?=\W|$))", r"\\\1", part)
    # A literal needs a word boundary on both sides.
    return "".join(
        part if number % 2 == 0 else _bounded(part, parts[number - 1], parts[number + 1])
        for number, part in enumerate(parts)
    )


def _bounded(literal: str, before: str, after: str) -> str:
    start = "\\ " if before and before[-1].isalnum() else ""
    end = "\\ " if after and after[0].isalnum() else ""
    return f"{start}{literal}{end}"


def _process_docstring(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    if what == "class" and lines and re.match(r"^\w+\(\w+: ", lines[0]):
        lines[:] = []  # the docstring that `dataclass` makes up
    if what == "attribute":
        lines += _default_of(name)
    lines[:] = to_rst(lines)


def _default_of(name: str) -> list[str]:
    """The default of a struct's field, which autodoc does not show; empty for other attributes."""
    owner, _, attribute = name.rpartition(".")
    try:
        fields = msgspec.structs.fields(pkgutil.resolve_name(owner))
    except (AttributeError, ImportError, TypeError):
        return []
    (default,) = [each.default for each in fields if each.name == attribute] or [None]
    shown = default not in (None, msgspec.NODEFAULT) and not isinstance(default, msgspec.Struct)
    return ["", f"Default: `{default!r}`."] if shown else []


def _process_signature(
    app: Any,
    what: str,
    name: str,
    obj: Any,
    options: Any,
    signature: str | None,
    returns: str | None,
) -> tuple[str, str | None] | None:
    # Documented fields below a dataclass already show its arguments, with types and defaults.
    with_fields = dataclasses.is_dataclass(obj) or hasattr(obj, "__struct_fields__")
    if what == "class" and with_fields and _has_field_docs(obj):
        return "", ""
    # A default that Sphinx cannot parse would leave the whole signature unformatted.
    return None if signature is None else (signature.replace("<factory>", "..."), returns)


def _has_field_docs(dataclass: Any) -> bool:
    documented = ModuleAnalyzer.for_module(dataclass.__module__).find_attr_docs()
    return any(owner == dataclass.__qualname__ for owner, _ in documented)


def _skip_member(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    # Of a configuration only the fields are settings; its functions serve the library.
    function = obj.fget if isinstance(obj, property) else getattr(obj, "__func__", obj)
    owner, dot, _ = getattr(function, "__qualname__", "").rpartition(".")
    return True if dot and callable(function) and owner.endswith(("Config", "Struct")) else None
