"""Wrapper that sets attributes of the unwrapped environment."""

from __future__ import annotations

from typing import Any

import gymnasium

from world_env.errors import InvalidOptionError


class SetAttributes(gymnasium.Wrapper[Any, Any, Any, Any], gymnasium.utils.RecordConstructorArgs):
    """Attributes of the environment underneath that its constructor does not ask for, set before its first episode.

    {"screen_dim": 128}: classic control draws at the size that is looked at, which is several times as fast as drawing
    500 x 500 pixels and shrinking them. Spaces that the constructor made stay as they are.
    Raises InvalidOptionError for attributes that are not there, or of another type: a mistyped name would change
    nothing.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], **attributes: Any) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, **attributes)
        gymnasium.Wrapper.__init__(self, env)
        for name, value in attributes.items():
            known = getattr(env.unwrapped, name, None)
            kinds = (int, float) if isinstance(known, float) else type(known)
            mixed = isinstance(value, bool) != isinstance(known, bool)
            if known is None or mixed or not isinstance(value, kinds):
                raise InvalidOptionError(
                    f"{type(env.unwrapped).__name__}.{name} is {known!r} and cannot become {value!r}: expected an "
                    "attribute that it has, and a value of the same type"
                )
            try:
                setattr(env.unwrapped, name, value)
            except AttributeError as error:
                raise InvalidOptionError(
                    f"{type(env.unwrapped).__name__}.{name} cannot be set ({error}): expected an attribute that is "
                    "no property"
                ) from error
