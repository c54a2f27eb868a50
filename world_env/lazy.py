"""Public names of a package that are imported on first use, so that importing the package stays cheap."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def lazy_names(
    package: str, file: str
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """`__all__`, `__getattr__` and `__dir__` of a package, for the names that it imports for type checkers only.

    package, file: `__name__` and `__file__` of the package. Its block `if TYPE_CHECKING:` is the one list of its names.
    """
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    guarded = [line for block in tree.body if isinstance(block, ast.If) for line in block.body]
    where = {
        name.name: str(line.module)
        for line in guarded
        if isinstance(line, ast.ImportFrom)
        for name in line.names
    }

    def module_getattr(name: str) -> Any:
        if name not in where:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}: public are {', '.join(sorted(where))}"
            )
        return getattr(importlib.import_module(where[name]), name)

    return sorted(where), module_getattr, lambda: sorted({*where, *vars(sys.modules[package])})


def imported(name: str) -> Any:
    """Import an object by its name, "module:attribute". Raises ImportError, AttributeError or ValueError."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
