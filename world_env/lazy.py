"""Public names of a package that are imported on first use, so that importing the package stays cheap."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any


def lazy_names(
    package: str, modules: dict[str, tuple[str, ...]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The package's `__getattr__` and `__dir__`.

    package: `__name__` of the package.
    modules: module below the package -> names that the package re-exports from it.
    """
    where = {name: module for module, names in modules.items() for name in names}

    def module_getattr(name: str) -> Any:
        if name not in where:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}: public are {', '.join(sorted(where))}"
            )
        return getattr(importlib.import_module(f"{package}.{where[name]}"), name)

    return module_getattr, lambda: sorted({*where, *vars(sys.modules[package])})
