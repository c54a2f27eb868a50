"""The families of world models by name, imported only when one is asked for."""

from __future__ import annotations

import importlib
from typing import Any

from world_env.errors import UnknownFamilyError

FAMILIES: dict[str, tuple[str, str]] = {
    "linear": ("world_env.models.linear:LinearWorldModel", "world_env.models.linear:LinearConfig"),
    "ensemble": (
        "world_env.models.ensemble.model:EnsembleWorldModel",
        "world_env.models.ensemble.model:EnsembleConfig",
    ),
    "rssm": (
        "world_env.models.rssm.model:RssmWorldModel",
        "world_env.models.rssm.model:RssmConfig",
    ),
    "rssm-large": (
        "world_env.models.rssm.model:RssmWorldModel",
        "world_env.models.rssm.model:LargeRssmConfig",
    ),
}
"""Name -> ("module:Model", "module:Config"): a new family is one file and one line here."""


def register_world_model(name: str, model: str, config: str) -> None:
    """Make a family of your own known: `model` and `config` are "module:Class" strings.

    The model is a `WorldModel(spec, config)`; the config a frozen dataclass of JSON-able fields. Twins store the
    name only, so the same registration must run before such a twin is loaded.
    """
    for text in (model, config):
        if text.count(":") != 1:
            raise UnknownFamilyError(f"family {name!r}: expected 'module:Class', got {text!r}")
    FAMILIES[name] = (model, config)


def load_family(name: str) -> tuple[type[Any], type[Any]]:
    """(model class, config class) of a family. Raises UnknownFamilyError with the names that exist."""
    if name not in FAMILIES:
        raise UnknownFamilyError(
            f"no family {name!r}: known are {', '.join(sorted(FAMILIES))}. "
            "A family of your own is made known with world_env.register_world_model before its twins are loaded."
        )
    model, config = (_resolve(text) for text in FAMILIES[name])
    return model, config


def _resolve(text: str) -> Any:
    module, _, attribute = text.partition(":")
    return getattr(importlib.import_module(module), attribute)
