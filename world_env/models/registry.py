"""Registry of the families of world models. A family is imported when it is first used."""

from __future__ import annotations

import importlib
from typing import Any

from world_env.errors import UnknownFamilyError

FAMILIES: dict[str, tuple[str, str]] = {
    "linear": ("world_env.models.linear:LinearWorldModel", "world_env.models.linear:LinearConfig"),
    "ensemble": (
        "world_env.models.ensemble.model:EnsembleWorldModel",
        "world_env.models.ensemble.config:EnsembleConfig",
    ),
    "rssm": (
        "world_env.models.rssm.model:RssmWorldModel",
        "world_env.models.rssm.config:RssmConfig",
    ),
    "rssm-large": (
        "world_env.models.rssm.model:RssmWorldModel",
        "world_env.models.rssm.config:LargeRssmConfig",
    ),
}
"""Name of a family -> ("module:Model", "module:Config")."""


def register_world_model(name: str, model: str, config: str) -> None:
    """Register a family of world models under a name.

    name: name of the family, stored in twins. An existing family of this name is replaced.
    model: "module:Class" of a `WorldModel`, called with (spec, config).
    config: "module:Class" of its config, a frozen dataclass whose fields can be stored as JSON.
    A twin stores only the name: register the family before you load such a twin.
    Raises UnknownFamilyError if `model` or `config` is not of the form "module:Class".
    """
    for text in (model, config):
        if text.count(":") != 1:
            raise UnknownFamilyError(
                f"family {name!r} has the entry {text!r}, expected 'module:Class'"
            )
    FAMILIES[name] = (model, config)


def load_family(name: str) -> tuple[type[Any], type[Any]]:
    """Import a family; returns (model class, config class). Raises UnknownFamilyError for an unknown name."""
    if name not in FAMILIES:
        raise UnknownFamilyError(
            f"unknown family {name!r}, expected one of {', '.join(sorted(FAMILIES))}. "
            "Register your own family with world_env.register_world_model before you load its twins."
        )
    model, config = (_resolve(text) for text in FAMILIES[name])
    return model, config


def _resolve(text: str) -> Any:
    module, _, attribute = text.partition(":")
    return getattr(importlib.import_module(module), attribute)
