"""Wrapper that sets attributes of the unwrapped environment."""

from __future__ import annotations

from typing import Any

import gymnasium

from world_env.errors import InvalidOptionError


class SetAttributes(gymnasium.Wrapper[Any, Any, Any, Any], gymnasium.utils.RecordConstructorArgs):
    """Set attributes of the unwrapped environment that are not arguments of its constructor, before the first episode.

    Example: {"screen_dim": 128} renders classic control environments at 128 x 128 pixels, which is several times faster
    than to render 500 x 500 pixels and resize them. Spaces are not changed.
    Raises InvalidOptionError if the environment has no such attribute, or the value has another type.
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
                    "existing attribute and a value of its type"
                )
            try:
                setattr(env.unwrapped, name, value)
            except AttributeError as error:
                raise InvalidOptionError(
                    f"{type(env.unwrapped).__name__}.{name} cannot be set ({error}): expected a plain attribute, not a "
                    "property"
                ) from error
