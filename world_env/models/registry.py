"""Registry of the families of world models. A family is imported when it is first used."""

from __future__ import annotations

import warnings
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from world_env.errors import PluginError, UnknownFamilyError
from world_env.lazy import imported

FAMILIES = {
    "linear": "world_env.models.linear:LinearWorldModel",
    "ensemble": "world_env.models.ensemble.model:EnsembleWorldModel",
    "rssm": "world_env.models.rssm.model:RssmWorldModel",
}
"""Name of a built-in or registered family -> "module:Class" of its model."""
_GROUP = "world_env.models"
"""Entry-point group of the families in installed packages."""


class PluginWarning(UserWarning):
    """A family of world models in an installed package cannot be imported. All other families work."""


def register_world_model(name: str, model: str) -> None:
    """Register a family of world models under a name.

    name: name of the family, stored in twins. An existing family of this name is replaced.
    model: "module:Class" of a `WorldModel`, called with (spec, config).
    A twin stores only the name: register the family before you load such a twin. A package needs no call if it has an
    entry point of the group `world_env.models`.
    Raises UnknownFamilyError if `model` is not of the form "module:Class".
    """
    if model.count(":") != 1:
        raise UnknownFamilyError(
            f"family {name!r} has the entry {model!r}, expected 'module:Class'"
        )
    FAMILIES[name] = model


def list_families() -> list[str]:
    """Return the names of all families: built-in, registered, and of installed packages.

    Imports the families of installed packages. Warns with PluginWarning of each that fails, and leaves it out.
    """
    names = set(FAMILIES)
    for name in {each.name for each in entry_points(group=_GROUP)} - names:
        try:
            load_family(name)
            names.add(name)
        except PluginError as error:
            warnings.warn(str(error), PluginWarning, stacklevel=2)
    return sorted(names)


def load_family(name: str) -> type[Any]:
    """Import a family and return its model class.

    Raises UnknownFamilyError for an unknown name, PluginError if the family of an installed package is not usable.
    """
    if name in FAMILIES:
        return _model_class(name, FAMILIES[name])
    found = list(entry_points(group=_GROUP, name=name))
    if not found:
        raise UnknownFamilyError(
            f"unknown family {name!r}, expected one of {', '.join(list_families())}. Register your own family with "
            f"world_env.register_world_model, or install a package with an entry point of the group {_GROUP!r}."
        )
    packages = sorted({_package(each) for each in found})
    if len(packages) > 1:
        raise PluginError(
            f"the packages {' and '.join(packages)} both have a family {name!r}: uninstall all but one"
        )
    try:
        return _model_class(name, found[0].value)
    # An import runs code of the package, which can raise any exception.
    except Exception as error:
        raise PluginError(
            f"the family {name!r} of the package {packages[0]} cannot be loaded ({type(error).__name__}: {error}): "
            "update or uninstall the package. All other families work."
        ) from error


def _model_class(name: str, text: str) -> type[Any]:
    model: type[Any] = imported(text)
    if not hasattr(model, "config_class"):
        raise UnknownFamilyError(
            f"the model class {text} of the family {name!r} has no config_class: set it to the class of its config"
        )
    return model


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value
